//! Tests of the whole: its structure, the check of the GPU path as a script, and the harness's command line.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cli;
mod gpu_check;
mod structure;
