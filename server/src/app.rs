//! The rooms put together: what every request, the control thread and the admin port share.

mod accounts;
mod catalogue;
mod control;
mod extras;
mod generation;
mod ids;
mod keys;
mod late;
mod models;
mod records;
mod seen;
mod shades;
mod start;
mod told;

pub use accounts::Accounts;
pub use generation::{Generation, ItemRows, ModelFacts, RowMap, RowsDraft, RowsView, SelfCheck};
pub use ids::BidIds;
pub use models::{Ended, Models, ModelsStatus, NotTaken};
pub(crate) use models::{NoModel, chosen_model, find_model, models_dir};
pub use records::Records;
pub use seen::{Expected, Predicted, Seen};
pub use shades::{Shades, group_of};
pub use start::{Bound, Stores, serve};

use crate::auction::choose::Chooser;
use crate::auction::pace::{ControlsHandle, Outcomes};
use crate::catalog::{CatalogHandle, EligibilityCache};
use crate::config::Config;
use crate::deadline::{Deadline, WallClock};
use crate::http::notices::NoticeSigner;
use crate::ledger::Ledger;
use crate::meters::Meters;
use crate::money::FxTable;
use crate::pipeline::encode_share;
use crate::runtime::Lifecycle;
use crate::store::UserStore;
use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Everything a request may need. Shared as `Arc<App>`; every part is usable through `&self`.
pub struct App {
    /// Settings.
    pub config: Config,
    /// Time.
    pub clock: Arc<dyn WallClock>,
    /// Exchange rates.
    pub fx: FxTable,
    /// Plans, items, creatives.
    pub catalog: CatalogHandle,
    /// Answers of eligibility.
    pub filters: EligibilityCache,
    /// What the last control tick decided.
    pub controls: ControlsHandle,
    /// Posteriors of creatives.
    pub chooser: Chooser,
    /// Results of plans.
    pub outcomes: Outcomes,
    /// Money.
    pub ledger: Arc<Ledger>,
    /// Accounts by plan slot.
    pub accounts: Accounts,
    /// Histories.
    pub users: Arc<UserStore>,
    /// The model that serves, and what was made with it.
    generation: ArcSwap<Generation>,
    /// Loading another one.
    pub models: Models,
    /// Held by whoever changes the catalogue, and while a model is switched: a new generation misses no change.
    writing: tokio::sync::Mutex<()>,
    /// Signs and checks notices.
    pub signer: NoticeSigner,
    /// Counted impressions and clicks.
    pub seen: Seen,
    /// Predicted values of recent bids.
    pub predicted: Predicted,
    /// What each plan did, by hour.
    pub reports: crate::reports::Reports,
    /// Win rates of first-price slots and what to offer there.
    pub shades: Shades,
    /// Numbers of bids.
    pub bid_ids: BidIds,
    /// Under which exchanges reach the public port; no slash at the end.
    pub public_url: String,
    /// Metrics.
    pub meters: Arc<Meters>,
    /// Phase of the process.
    pub lifecycle: Lifecycle,
    no_bids_seen: AtomicU64,
}

impl App {
    /// Kept back from a deadline for pricing and the reply.
    #[must_use]
    pub fn margin(&self) -> Duration {
        Duration::from_millis(self.config.batch.deadline_margin_ms)
    }

    /// When scores must be there for a request to be answered in time.
    #[must_use]
    pub fn score_deadline(&self, deadline: Deadline) -> Deadline {
        Deadline(deadline.0.checked_sub(self.margin()).unwrap_or(deadline.0))
    }

    /// When an encode must be done for the rest of the request to be.
    #[must_use]
    pub fn encode_deadline(&self, deadline: Deadline, now: Instant) -> Deadline {
        Deadline::after(now, encode_share(deadline.left(now).saturating_sub(self.margin())))
    }

    /// Seconds that a bid holds money.
    #[must_use]
    pub fn hold_seconds(&self) -> i64 {
        i64::try_from(self.config.ledger.hold_seconds).unwrap_or(i64::MAX)
    }

    /// Seed of everything drawn for one auction: the same request under the same state is answered the same.
    #[must_use]
    pub fn seed_of(&self, auction_id: &str) -> u64 {
        let digest = Sha256::digest(auction_id.as_bytes());
        let mut first = [0u8; 8];
        first.copy_from_slice(&digest[..8]);
        u64::from_le_bytes(first) ^ self.config.auction.seed
    }

    /// True when slots that demand https can be answered: trackers load from our own URL.
    #[must_use]
    pub fn secure(&self) -> bool {
        self.public_url.starts_with("https://")
    }

    /// The model that serves now. A request takes it once, after its snapshot of the catalogue, and keeps it to its end.
    #[must_use]
    pub fn generation(&self) -> Arc<Generation> {
        self.generation.load_full()
    }

    /// Has requests from now on served by `fresh`; gives the former generation.
    fn switch(&self, fresh: Generation) -> Arc<Generation> {
        self.generation.swap(Arc::new(fresh))
    }

    /// Tells metrics which model serves, or no longer does.
    fn show_model(&self, facts: &ModelFacts, serving: bool) {
        self.meters.show_model(&facts.name, &facts.version, serving);
    }

    /// True for the share of requests whose reasons are logged if they get no bid.
    #[must_use]
    pub fn sample_no_bid(&self) -> bool {
        let share = self.config.log.no_bid_sample;
        if share <= 0.0 {
            return false;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive interval; `as` saturates"
        )]
        let every = (1.0 / share).round().max(1.0) as u64;
        self.no_bids_seen.fetch_add(1, Ordering::Relaxed).is_multiple_of(every)
    }
}
