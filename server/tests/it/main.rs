//! The server's rooms from outside.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod admin;
mod batch_device;
mod batch_plan;
mod batch_spy;
mod cli;
mod config;
mod crash;
mod crash_io;
mod demo;
mod e2e_bid;
mod e2e_feed;
mod http_caps;
mod http_drain;
mod http_limits;
mod ledger;
mod ledger_disk;
mod ledger_model;
mod markup_check;
mod meters;
mod notices;
mod openrtb_hostile;
mod openrtb_parse;
mod openrtb_respond;
mod openrtb_validate;
mod render;
mod retrieve;
mod shared;
mod signals;
mod store;
mod store_events;
mod store_model;
mod wire;
mod world;
