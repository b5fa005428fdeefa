//! The server's rooms from outside.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod admin;
mod auction_arms;
mod auction_choose;
mod auction_compose;
mod auction_pace;
mod auction_price;
mod batch_device;
mod batch_plan;
mod batch_spy;
mod catalog;
mod catalog_filter;
mod catalog_kit;
mod cli;
mod config;
mod controls;
mod controls_day;
mod crash;
mod crash_io;
mod dataset;
mod demo;
mod diagnose;
mod e2e_arms;
mod e2e_bid;
mod e2e_creative;
mod e2e_feed;
mod e2e_refused;
mod eval;
mod eval_dataset;
mod exclude;
#[cfg(feature = "cuda")]
mod gpu;
mod http_caps;
mod http_drain;
mod http_limits;
mod import;
// The load harness is a binary; what it makes of log lines is checked here against a server in this process.
#[path = "../../../bench/src/ipinyou.rs"]
mod ipinyou;
mod ledger;
mod ledger_disk;
mod ledger_model;
mod markup_check;
mod meters;
mod models;
mod models_kit;
mod notices;
mod openrtb_hostile;
mod openrtb_parse;
mod openrtb_respond;
mod openrtb_validate;
mod process;
mod real_users;
mod render;
mod render_composed;
mod retrieve;
mod shared;
mod signals;
mod state_format;
mod store;
mod store_events;
mod store_model;
mod whole_crash;
mod whole_drain;
mod wire;
mod world;
