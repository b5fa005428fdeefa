//! The index from outside: against naive models, while it is written to, and with files that were damaged.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod bitmap;
mod concurrent;
mod damaged;
mod filters;
mod merging;
mod model;
mod world;
