//! Tests of the whole: its structure, and the check of the GPU path as a script.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod gpu_check;
mod structure;
