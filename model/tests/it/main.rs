//! Tests of the model crate through its public face.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests fail the test and print figures")]

mod bundle;
mod cache;
mod encoder;
mod golden;
mod items;
mod load;
mod seeded;
mod state;
mod support;
