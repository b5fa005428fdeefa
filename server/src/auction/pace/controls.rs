//! The control tick and the snapshot it publishes.

use super::rl::RlPolicy;
use super::{AnyPolicy, Control, Forecast, Outlook, PlanObservation, PlanResults, Policy, Profile};
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
    controls: Vec<Control>,
}

impl Controls {
    /// Multiplier of a plan; 1 for a plan that no tick has seen.
    #[must_use]
    pub fn multiplier(&self, plan: PlanSlot) -> f64 {
        self.controls.get(plan as usize).map_or(1.0, |control| control.multiplier)
    }

    /// What a plan's policy expects of it; `None` if the policy does not forecast, or has not seen an impression yet.
    #[must_use]
    pub fn forecast(&self, plan: PlanSlot) -> Option<Forecast> {
        self.controls.get(plan as usize)?.forecast
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
    /// The learned shape of the day.
    #[serde(default)]
    pub profile: Profile,
    /// Mean threshold of the known plans.
    #[serde(default)]
    pub threshold: f64,
    /// Results of all plans, and how many were predicted.
    #[serde(default)]
    pub record: (f64, f64),
}

/// Owns every plan's policy and runs the ticks.
#[derive(Debug, Default)]
pub struct ControlLoop {
    /// By plan slot, with the id that the slot belongs to.
    policies: HashMap<PlanSlot, (Id, AnyPolicy)>,
    /// Restored policies of plans that no tick has met yet.
    waiting: HashMap<Id, AnyPolicy>,
    profile: Profile,
    threshold: f64,
    /// Results of all plans, and how many were predicted.
    record: (f64, f64),
    learned: Option<Arc<RlPolicy>>,
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
        let SavedControls { plans, profile, threshold, record } = saved;
        let threshold = if threshold.is_finite() { threshold.clamp(-8.0, 8.0) } else { 0.0 };
        Self { waiting: plans.into_iter().collect(), profile, threshold, record, ..Self::default() }
    }

    /// Sets the offline-trained policy that plans under `mpc+rl` use; without one they are under plain `mpc`.
    pub fn set_learned(&mut self, policy: Option<Arc<RlPolicy>>) {
        self.learned = policy;
    }

    /// The policies' state.
    #[must_use]
    pub fn save(&self) -> SavedControls {
        let mut plans: Vec<_> = self.policies.values().cloned().collect();
        plans.extend(self.waiting.iter().map(|(id, policy)| (id.clone(), policy.clone())));
        plans.sort_by(|a, b| a.0.cmp(&b.0));
        SavedControls { plans, profile: self.profile.clone(), threshold: self.threshold, record: self.record }
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
        let mut controls = vec![Control::default(); slots];
        let mut plans = Bitmap::with_slots(slots);
        self.policies.retain(|&slot, _| catalog.plan(slot).is_some());
        let began = self.last.at;
        let profile = self.profile.clone();
        let learned = self.learned.clone();
        let outlook = Outlook {
            profile: &profile,
            threshold: self.threshold,
            record: record_of_all(self.record),
            policy: learned.as_deref(),
        };
        let (mut thresholds, mut record) = ((0.0, 0.0), (0.0, 0.0));
        for (slot, entry) in catalog.plans() {
            let plan = &entry.record;
            let totals = totals(slot, plan);
            let running = plan.state == PlanState::Active && runs_at(plan, now);
            let (allowance, period_ends_at) = plan.period(now);
            if running && totals.free.0 > 0 && totals.spent < allowance {
                plans.set(slot);
            }
            let seen = observation(plan, &totals, allowance, period_ends_at);
            add_record(&mut record, &seen);
            let policy = self.policy_of(slot, plan);
            if running {
                controls[slot as usize] = policy.update(&seen, now, &outlook);
                if let AnyPolicy::Mpc(mpc) = policy
                    && let Some((surprise, certainty)) = mpc.surprise()
                {
                    let threshold = mpc.response().map_or(0.0, |response| response.threshold);
                    thresholds = (thresholds.0 + certainty * threshold, thresholds.1 + certainty);
                    self.profile.report(began, surprise, certainty);
                }
            }
        }
        if record.1 > 0.0 {
            self.record = record;
        }
        if thresholds.1 > 0.0 {
            self.threshold = thresholds.0 / thresholds.1;
        }
        let last = &self.last;
        let unchanged = last.version > 0 && last.live.plans == plans && last.live.known == catalog.plan_slots();
        let live = if unchanged {
            Arc::clone(&last.live)
        } else {
            Arc::new(PlanSet { version: last.live.version + 1, plans, known: catalog.plan_slots() })
        };
        self.last = Arc::new(Controls { version: last.version + 1, at: now, live, controls });
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

/// Results that weigh as much as the belief that predictions are right.
const PRIOR_RESULTS: f64 = 100.0;

/// Results over predictions of all plans together, pulled to 1.
fn record_of_all((results, predicted): (f64, f64)) -> f64 {
    let ratio = (results + PRIOR_RESULTS) / (predicted + PRIOR_RESULTS);
    if ratio.is_finite() { ratio.clamp(0.1, 10.0) } else { 1.0 }
}

/// Adds a plan's results, and how many its predicted value stands for.
#[expect(clippy::cast_precision_loss, reason = "counts and figures for a controller")]
fn add_record((results, predicted): &mut (f64, f64), seen: &PlanObservation) {
    if seen.results > 0 && seen.earned.0 > 0 && seen.expected.0 > 0 {
        *results += seen.results as f64;
        *predicted += seen.expected.0 as f64 * seen.results as f64 / seen.earned.0 as f64;
    }
}

fn observation(plan: &Plan, totals: &PlanTotals, allowance: Micros, period_ends_at: i64) -> PlanObservation {
    PlanObservation {
        budget: plan.budget_micros,
        spent: totals.spent,
        earned: totals.results.earned(plan),
        results: totals.results.counted(&plan.goal),
        impressions: totals.results.impressions,
        expected: totals.results.expected,
        starts_at: plan.starts_at,
        ends_at: plan.ends_at,
        allowance,
        period_ends_at,
    }
}

#[expect(clippy::cast_precision_loss, reason = "Unix seconds are far below 2^53")]
fn runs_at(plan: &Plan, now: f64) -> bool {
    now >= plan.starts_at as f64 && now < plan.ends_at as f64
}
