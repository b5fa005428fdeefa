//! The server's rooms from outside.

mod batch_plan;
