//! The control tick and the snapshot it publishes.

use super::{AnyPolicy, PlanObservation, PlanResults, Policy};
use crate::catalog::{Bitmap, Catalog, PlanSet};
use crate::ids::{Id, PlanSlot};
use crate::money::Micros;
use crate::plans::{Plan, PlanState};
use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;

/// Money and results of a plan at a tick, micros of its currency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanTotals {
    /// Spent so far.
    pub spent: Micros,
    /// Neither spent nor held.
    pub free: Micros,
    /// Results so far ([`super::Outcomes::of`]).
    pub results: PlanResults,
}

/// What requests read: every plan's multiplier and who takes part.
#[derive(Clone, Debug, Default)]
pub struct Controls {
    /// Grows with every tick.
    pub version: u64,
    /// Unix seconds of the tick.
    pub at: f64,
    /// Plans that are active, in schedule and have free budget.
    pub live: Arc<PlanSet>,
    multipliers: Vec<f64>,
}

impl Controls {
    /// Multiplier of a plan; 1 for a plan that no tick has seen.
    #[must_use]
    pub fn multiplier(&self, plan: PlanSlot) -> f64 {
        self.multipliers.get(plan as usize).copied().unwrap_or(1.0)
    }
}

/// The current [`Controls`]; replaced by the control tick, read by every request without waiting.
#[derive(Debug, Default)]
pub struct ControlsHandle(ArcSwap<Controls>);

impl ControlsHandle {
    /// The current snapshot.
    #[must_use]
    pub fn load(&self) -> Arc<Controls> {
        self.0.load_full()
    }

    /// Publishes a tick's result.
    pub fn store(&self, controls: Arc<Controls>) {
        self.0.store(controls);
    }
}

/// The policies' state by plan id, for the store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SavedControls {
    /// One policy for each plan.
    pub plans: Vec<(Id, AnyPolicy)>,
}

/// Owns every plan's policy and runs the ticks.
#[derive(Debug, Default)]
pub struct ControlLoop {
    /// By plan slot, with the id that the slot belongs to.
    policies: HashMap<PlanSlot, (Id, AnyPolicy)>,
    /// Restored policies of plans that no tick has met yet.
    waiting: HashMap<Id, AnyPolicy>,
    last: Arc<Controls>,
}

impl ControlLoop {
    /// A loop with fresh policies.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A loop that goes on from a saved state.
    #[must_use]
    pub fn restore(saved: SavedControls) -> Self {
        Self { waiting: saved.plans.into_iter().collect(), ..Self::default() }
    }

    /// The policies' state.
    #[must_use]
    pub fn save(&self) -> SavedControls {
        let mut plans: Vec<_> = self.policies.values().cloned().collect();
        plans.extend(self.waiting.iter().map(|(id, policy)| (id.clone(), policy.clone())));
        plans.sort_by(|a, b| a.0.cmp(&b.0));
        SavedControls { plans }
    }

    /// One tick at `now` (Unix seconds): updates the policy of every plan that is active and in schedule, and gives the
    /// controls that hold until the next. `totals` names money and results of a plan. Pure but for the policies' own
    /// state. The plan set keeps its version while its content does not change, so cached filters stay valid.
    pub fn tick(
        &mut self,
        now: f64,
        catalog: &Catalog,
        mut totals: impl FnMut(PlanSlot, &Plan) -> PlanTotals,
    ) -> Arc<Controls> {
        let slots = catalog.plan_slots() as usize;
        let mut multipliers = vec![1.0; slots];
        let mut plans = Bitmap::with_slots(slots);
        self.policies.retain(|&slot, _| catalog.plan(slot).is_some());
        for (slot, entry) in catalog.plans() {
            let plan = &entry.record;
            let totals = totals(slot, plan);
            let running = plan.state == PlanState::Active && runs_at(plan, now);
            if running && totals.free.0 > 0 {
                plans.set(slot);
            }
            let policy = self.policy_of(slot, plan);
            let multiplier = &mut multipliers[slot as usize];
            if running {
                let seen = PlanObservation {
                    budget: plan.budget_micros,
                    spent: totals.spent,
                    earned: totals.results.earned(&plan.goal),
                    results: totals.results.counted(&plan.goal),
                    expected: totals.results.expected,
                    starts_at: plan.starts_at,
                    ends_at: plan.ends_at,
                };
                *multiplier = policy.update(&seen, now).multiplier;
            }
        }
        let last = &self.last;
        let unchanged = last.version > 0 && last.live.plans == plans && last.live.known == catalog.plan_slots();
        let live = if unchanged {
            Arc::clone(&last.live)
        } else {
            Arc::new(PlanSet { version: last.live.version + 1, plans, known: catalog.plan_slots() })
        };
        self.last = Arc::new(Controls { version: last.version + 1, at: now, live, multipliers });
        Arc::clone(&self.last)
    }

    fn policy_of(&mut self, slot: PlanSlot, plan: &Plan) -> &mut AnyPolicy {
        let waiting = &mut self.waiting;
        let entry = self.policies.entry(slot).or_insert_with(|| {
            let restored = waiting.remove(&plan.id);
            (plan.id.clone(), restored.unwrap_or_else(|| AnyPolicy::new(plan.policy)))
        });
        if entry.1.kind() != plan.policy {
            entry.1 = AnyPolicy::new(plan.policy);
        }
        &mut entry.1
    }
}

#[expect(clippy::cast_precision_loss, reason = "Unix seconds are far below 2^53")]
fn runs_at(plan: &Plan, now: f64) -> bool {
    now >= plan.starts_at as f64 && now < plan.ends_at as f64
}
