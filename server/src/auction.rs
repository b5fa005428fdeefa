//! Pricing and creative choice: pure functions, no IO, no async, no clock of their own.

pub mod slot;
