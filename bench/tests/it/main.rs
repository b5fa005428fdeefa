//! Tests of the whole: its structure.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod structure;
