//! The server's rooms from outside.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod admin;
mod batch_plan;
mod config;
mod http_caps;
mod http_drain;
mod http_limits;
mod meters;
mod retrieve;
mod wire;
