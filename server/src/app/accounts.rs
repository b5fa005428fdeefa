//! Ledger accounts by plan slot, so that pricing finds a plan's free budget without looking up its id.

use crate::catalog::Catalog;
use crate::ids::PlanSlot;
use crate::ledger::{AccountId, Ledger};
use crate::money::Micros;
use arc_swap::ArcSwap;

/// Accounts of all plans; replaced as a whole when the catalogue changes.
#[derive(Debug, Default)]
pub struct Accounts(ArcSwap<Vec<Option<AccountId>>>);

impl Accounts {
    /// Looks every plan's account up anew.
    pub fn refresh(&self, catalog: &Catalog, ledger: &Ledger) {
        let mut accounts = vec![None; catalog.plan_slots() as usize];
        for (slot, entry) in catalog.plans() {
            accounts[slot as usize] = ledger.account(&entry.record.id);
        }
        self.0.store(accounts.into());
    }

    /// The account of a plan.
    #[must_use]
    pub fn of(&self, plan: PlanSlot) -> Option<AccountId> {
        self.0.load().get(plan as usize).copied().flatten()
    }

    /// What a plan can still hold.
    #[must_use]
    pub fn free(&self, ledger: &Ledger, plan: PlanSlot) -> Micros {
        self.of(plan).map_or(Micros::ZERO, |account| ledger.free_hint(account))
    }
}
