//! Tests of the model crate through its public face.

mod golden;
