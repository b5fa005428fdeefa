//! The one writable place of the catalogue.

use super::Catalog;
use super::change::{Applied, ApplyError, Change, Draft};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::sync::Arc;

/// The current catalogue: readers take a snapshot without waiting, writers take turns.
#[derive(Debug, Default)]
pub struct CatalogHandle {
    current: ArcSwap<Catalog>,
    /// Held by writers only, while they build the next snapshot.
    writer: Mutex<()>,
}

/// What [`CatalogHandle::check`] found.
#[derive(Clone, Debug)]
pub struct Checked {
    /// What the changes that can be made would do.
    pub applied: Applied,
    /// The others, in order.
    pub refused: Vec<ApplyError>,
}

impl CatalogHandle {
    /// An empty catalogue.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The current snapshot.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Catalog> {
        self.current.load_full()
    }

    /// What would come of changes, each after those before it that can be made; nothing is published.
    #[must_use]
    pub fn check(&self, changes: &[Change]) -> Checked {
        let mut draft = Draft::new(Catalog::clone(&self.current.load_full()));
        let mut refused = Vec::new();
        for (index, change) in changes.iter().enumerate() {
            // A refused change has changed nothing.
            if let Err(error) = draft.change(change.clone()) {
                refused.push(ApplyError { index, error });
            }
        }
        Checked { applied: draft.finish().1, refused }
    }

    /// Applies changes in order, all or none, and publishes the result as the next version.
    ///
    /// # Errors
    /// The first change that breaks a rule, with its position; nothing is published then.
    pub fn apply(&self, changes: Vec<Change>) -> Result<Applied, ApplyError> {
        let _turn = self.writer.lock();
        let mut draft = Draft::new(Catalog::clone(&self.current.load_full()));
        for (index, change) in changes.into_iter().enumerate() {
            draft.change(change).map_err(|error| ApplyError { index, error })?;
        }
        let (catalog, applied) = draft.finish();
        self.current.store(Arc::new(catalog));
        Ok(applied)
    }
}
