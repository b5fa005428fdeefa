//! Pricing and creative choice: pure functions, no IO, no async, no clock of their own.
//!
//! A request walks through [`price`] (what one impression is worth to a plan and what it bids), [`select`] (which
//! candidates make the response) and [`choose`] (which creative is shown). [`pace`] runs beside the requests: a control
//! tick turns spend and results into the multipliers that pricing reads.

pub mod choose;
mod counters;
pub mod diagnose;
mod normal;
pub mod pace;
pub mod price;
pub mod reason;
pub mod select;
pub mod shade;
pub mod slot;

pub use normal::cdf as normal_cdf;
pub use reason::NoBidReason;
