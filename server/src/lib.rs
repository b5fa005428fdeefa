//! Longbow: the request path, HTTP, batching, auction stages, stores, admin.
//!
//! The rooms, in the order a request walks through them, are listed in `docs/architecture.md`.
//! [`pipeline`] tells the story of one request.

pub mod actions;
pub mod admin;
pub mod app;
pub mod auction;
pub mod batch;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod dataset;
pub mod deadline;
pub mod demo;
pub mod device;
pub mod eval;
pub mod events;
pub mod http;
pub mod ids;
pub mod import;
pub mod ledger;
mod lru;
pub mod meters;
pub mod money;
pub mod pipeline;
pub mod plans;
pub mod render;
pub mod reports;
pub mod retrieve;
pub mod runtime;
pub mod store;
