//! Tests of the model crate through its public face.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests fail the test and print figures")]

mod bundle;
mod cache;
#[cfg(feature = "cuda")]
mod cuda;
mod encoder;
mod golden;
mod items;
mod load;
mod seeded;
mod state;
mod support;
