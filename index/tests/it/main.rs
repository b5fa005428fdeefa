//! The index from outside: against naive models, while it is written to, and with files that were damaged.

mod bitmap;
mod concurrent;
mod damaged;
mod filters;
mod merging;
mod model;
mod world;
