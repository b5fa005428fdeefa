//! Settings: one typed tree from defaults, a TOML file, the environment and flags, checked whole before anything is bound.
//!
//! Later sources win: flag > environment (`LONGBOW_SECTION__KEY`) > file > default. Each key is written down once, in
//! [`sections`], with its type, default, allowed range and meaning; loading, checking, printing and the key table in the
//! documentation all read that one list.

pub mod key;
mod load;
mod print;
pub mod sections;

pub use key::{Key, Rule, Secret};
pub use load::{ConfigError, ConfigErrors, Origin, Sources};
pub use sections::{
    Admin, Auction, Batch, ChargeOn, Currencies, Data, Demo, DeviceVectors, Drain, Events, Http, Index, IndexKind,
    Ledger, Log, LogFormat, Model, ModelDevice, Notices, Runtime, StateFormat, Store,
};

use serde::{Deserialize, Serialize};

macro_rules! config {
    ($($field:ident : $section:ident, $about:literal;)+) => {
        /// Every setting of the server. [`Default`] needs no tuning.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Config {
            $(#[doc = $about] pub $field: $section,)+
        }

        impl Config {
            /// Every key, in the order in which they are printed.
            pub fn keys() -> impl Iterator<Item = &'static Key> {
                const ALL: &[&[Key]] = &[$($section::KEYS),+];
                ALL.iter().copied().flatten()
            }
        }
    };
}

config! {
    http: Http, "The public port.";
    admin: Admin, "The port of the people who run the server.";
    data: Data, "Where durable state lives.";
    model: Model, "The encoder and its state cache.";
    index: Index, "Retrieval.";
    batch: Batch, "The device queue.";
    auction: Auction, "Pricing, pacing and choosing.";
    ledger: Ledger, "Money.";
    store: Store, "User histories.";
    events: Events, "The event log.";
    notices: Notices, "Signed win, billing and loss notices.";
    currencies: Currencies, "Exchange rates.";
    runtime: Runtime, "Threads.";
    drain: Drain, "Leaving.";
    log: Log, "Logs.";
    demo: Demo, "The demo world.";
}

impl Config {
    /// The settings of these sources; every fault found, not only the first.
    pub fn load(sources: &Sources) -> Result<Self, ConfigErrors> {
        load::load(sources)
    }

    /// The effective settings as TOML with each key's meaning above it and secrets left out.
    #[must_use]
    pub fn to_toml(&self) -> String {
        print::to_toml(self)
    }

    /// The effective settings as JSON with secrets left out.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        // Serialising plain data cannot fail; an empty object would only follow from a bug in serde.
        serde_json::to_value(self).unwrap_or_default()
    }
}
