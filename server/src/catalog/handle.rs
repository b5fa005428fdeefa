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

    /// What [`Self::apply`] would do now; nothing is published.
    ///
    /// # Errors
    /// The first change that breaks a rule, with its position.
    pub fn check(&self, changes: &[Change]) -> Result<Applied, ApplyError> {
        Ok(self.next(changes.iter().cloned())?.1)
    }

    /// Applies changes in order, all or none, and publishes the result as the next version.
    ///
    /// # Errors
    /// The first change that breaks a rule, with its position; nothing is published then.
    pub fn apply(&self, changes: Vec<Change>) -> Result<Applied, ApplyError> {
        let _turn = self.writer.lock();
        let (catalog, applied) = self.next(changes)?;
        self.current.store(Arc::new(catalog));
        Ok(applied)
    }

    fn next(&self, changes: impl IntoIterator<Item = Change>) -> Result<(Catalog, Applied), ApplyError> {
        let mut draft = Draft::new(Catalog::clone(&self.current.load_full()));
        for (index, change) in changes.into_iter().enumerate() {
            draft.change(change).map_err(|error| ApplyError { index, error })?;
        }
        Ok(draft.finish())
    }
}
