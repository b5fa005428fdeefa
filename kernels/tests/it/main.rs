//! One integration binary: every instruction set of this machine against the f64 reference, and what must hold bit for bit.
#![expect(clippy::expect_used, reason = "helpers of tests fail the test")]

mod agreement;
mod bf16;
#[cfg(feature = "cuda")]
mod cuda;
mod dense;
mod edges;
mod exactness;
mod refusal;
mod world;
