//! The control tick and the snapshot it publishes.

use super::arms::{self, Trial};
use super::rl::RlPolicy;
use super::{AnyPolicy, Cell, CellResults, Control, Forecast, Outlook, PlanObservation, Policy, Profile};
use crate::auction::slot::CHANNELS;
use crate::catalog::{Bitmap, Catalog, PlanSet};
use crate::ids::{Id, PlanSlot};
use crate::money::Micros;
use crate::plans::{Arm, Experiment, Plan, PlanState, PolicyKind};
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
    /// Results so far ([`super::Outcomes::cells`]).
    pub results: CellResults,
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
    /// By arm.
    controls: Vec<[Control; 2]>,
    /// Experiments that run.
    trials: HashMap<PlanSlot, Trial>,
}

impl Controls {
    /// What holds for one arm of a plan; multiplier 1 for a plan that no tick has seen.
    #[must_use]
    pub fn of(&self, plan: PlanSlot, arm: Arm) -> Control {
        self.controls.get(plan as usize).map_or_else(Control::default, |arms| arms[arm as usize])
    }

    /// Multiplier of a plan's own policy, before the channels' factors; 1 for a plan that no tick has seen.
    #[must_use]
    pub fn multiplier(&self, plan: PlanSlot) -> f64 {
        self.of(plan, Arm::First).multiplier
    }

    /// Multiplier for an impression.
    #[must_use]
    pub fn multiplier_in(&self, plan: PlanSlot, cell: Cell) -> f64 {
        let Some(arms) = self.controls.get(plan as usize) else { return 1.0 };
        let control = &arms[cell.arm as usize];
        control.multiplier * control.channels[cell.channel as usize]
    }

    /// What a plan's policy expects of it; `None` if the policy does not forecast, or has not seen an impression yet.
    #[must_use]
    pub fn forecast(&self, plan: PlanSlot) -> Option<Forecast> {
        self.of(plan, Arm::First).forecast
    }

    /// The plan's experiment, if one runs.
    #[must_use]
    pub fn trial(&self, plan: PlanSlot) -> Option<&Trial> {
        self.trials.get(&plan)
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
    /// Experiments: how they began, and the policy of the second arm.
    #[serde(default)]
    pub trials: Vec<(Id, Trial, AnyPolicy)>,
    /// The learned shape of the day.
    #[serde(default)]
    pub profile: Profile,
    /// Mean threshold of the known plans.
    #[serde(default)]
    pub threshold: f64,
    /// Results of all plans, and how many were predicted, by channel.
    #[serde(default)]
    pub records: [(f64, f64); CHANNELS],
}

/// State of one plan.
#[derive(Clone, Debug)]
struct Steered {
    id: Id,
    policy: AnyPolicy,
    /// The experiment and its policy.
    second: Option<(Trial, AnyPolicy)>,
}

/// Owns every plan's policy and runs the ticks.
#[derive(Debug, Default)]
pub struct ControlLoop {
    /// By plan slot.
    plans: HashMap<PlanSlot, Steered>,
    /// Restored state of plans that no tick has met yet.
    waiting: HashMap<Id, Steered>,
    profile: Profile,
    threshold: f64,
    /// Results of all plans, and how many were predicted, by channel.
    records: [(f64, f64); CHANNELS],
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
        let SavedControls { plans, trials, profile, threshold, records } = saved;
        let threshold = if threshold.is_finite() { threshold.clamp(-8.0, 8.0) } else { 0.0 };
        let plan = |(id, policy): (Id, AnyPolicy)| (id.clone(), Steered { id, policy, second: None });
        let mut waiting: HashMap<Id, Steered> = plans.into_iter().map(plan).collect();
        for (id, trial, policy) in trials {
            if let Some(plan) = waiting.get_mut(&id) {
                plan.second = Some((trial, policy));
            }
        }
        Self { waiting, profile, threshold, records, ..Self::default() }
    }

    /// Sets the offline-trained policy that plans under `mpc+rl` use; without one they are under plain `mpc`.
    pub fn set_learned(&mut self, policy: Option<Arc<RlPolicy>>) {
        self.learned = policy;
    }

    /// The policies' state.
    #[must_use]
    pub fn save(&self) -> SavedControls {
        let mut all: Vec<&Steered> = self.plans.values().chain(self.waiting.values()).collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        let trial =
            |plan: &&Steered| plan.second.as_ref().map(|(trial, policy)| (plan.id.clone(), *trial, policy.clone()));
        SavedControls {
            plans: all.iter().map(|plan| (plan.id.clone(), plan.policy.clone())).collect(),
            trials: all.iter().filter_map(trial).collect(),
            profile: self.profile.clone(),
            threshold: self.threshold,
            records: self.records,
        }
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
        let mut controls = vec![[Control::default(); 2]; slots];
        let (mut plans, mut spent) = (Bitmap::with_slots(slots), Bitmap::with_slots(slots));
        self.plans.retain(|&slot, _| catalog.plan(slot).is_some());
        let (profile, learned) = (self.profile.clone(), self.learned.clone());
        let (record, channels) = records_of_all(&self.records);
        let threshold = self.threshold;
        let outlook = Outlook { profile: &profile, threshold, record, channels, policy: learned.as_deref() };
        let mut shared = Shared::default();
        let mut trials = HashMap::new();
        for (slot, entry) in catalog.plans() {
            let plan = &entry.record;
            let totals = totals(slot, plan);
            let running = plan.state == PlanState::Active && runs_at(plan, now);
            if running {
                let has_money = totals.free.0 > 0 && totals.spent < plan.period(now).0;
                if has_money {
                    plans.set(slot)
                } else {
                    spent.set(slot)
                };
            }
            let began = self.last.at;
            let steered = steered(&mut self.plans, &mut self.waiting, slot, plan);
            let moved = follow_experiment(steered, plan.strategy.experiment, &totals);
            let trial = steered.second.as_ref().map(|(trial, _)| *trial);
            trials.extend(trial.map(|trial| (slot, trial)));
            let second = steered.second.as_mut().map(|(_, policy)| (Arm::Second, policy));
            for (arm, policy) in std::iter::once((Arm::First, &mut steered.policy)).chain(second) {
                let seen = arms::observation(plan, &totals, trial.as_ref(), arm, now);
                if moved {
                    policy.rebase(&seen);
                }
                shared.add_record(&seen);
                if running {
                    let control = policy.update(&seen, now, &outlook);
                    let spent_up = trial.is_some() && seen.left() <= 0.0;
                    controls[slot as usize][arm as usize] = if spent_up { arms::stopped() } else { control };
                    shared.add_surprise(policy, &mut self.profile, began);
                }
            }
        }
        shared.settle(&mut self.records, &mut self.threshold);
        let last = &self.last;
        let same = last.live.plans == plans && last.live.spent == spent && last.live.known == catalog.plan_slots();
        let unchanged = last.version > 0 && same;
        let live = if unchanged {
            Arc::clone(&last.live)
        } else {
            Arc::new(PlanSet { version: last.live.version + 1, plans, spent, known: catalog.plan_slots() })
        };
        self.last = Arc::new(Controls { version: last.version + 1, at: now, live, controls, trials });
        Arc::clone(&self.last)
    }
}

/// A plan's state, new or restored if need be, with policies of the kinds that the plan asks for.
fn steered<'a>(
    plans: &'a mut HashMap<PlanSlot, Steered>,
    waiting: &mut HashMap<Id, Steered>,
    slot: PlanSlot,
    plan: &Plan,
) -> &'a mut Steered {
    let fresh = || Steered { id: plan.id.clone(), policy: AnyPolicy::new(plan.policy), second: None };
    let entry = plans.entry(slot).or_insert_with(|| waiting.remove(&plan.id).unwrap_or_else(fresh));
    renew(&mut entry.policy, plan.policy);
    entry
}

fn renew(policy: &mut AnyPolicy, kind: PolicyKind) {
    if policy.kind() != kind {
        *policy = AnyPolicy::new(kind);
    }
}

/// Begins an experiment that is new or was changed, and ends one that the plan no longer has. True if results changed hands.
fn follow_experiment(plan: &mut Steered, experiment: Option<Experiment>, totals: &PlanTotals) -> bool {
    let Some(experiment) = experiment else { return plan.second.take().is_some() };
    if plan.second.as_ref().is_some_and(|(trial, _)| trial.is(&experiment)) {
        return false;
    }
    plan.second = Some((Trial::begin(experiment, totals), AnyPolicy::new(experiment.policy)));
    true
}

/// Results that weigh as much as the belief that predictions are right.
const PRIOR_RESULTS: f64 = 100.0;

/// Results over predictions of all plans together, pulled to 1; and of each channel, pulled to that and over it.
fn records_of_all(records: &[(f64, f64); CHANNELS]) -> (f64, [f64; CHANNELS]) {
    let (results, predicted) = records.iter().fold((0.0, 0.0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
    let bounded = |ratio: f64| if ratio.is_finite() { ratio.clamp(0.1, 10.0) } else { 1.0 };
    let record = bounded((results + PRIOR_RESULTS) / (predicted + PRIOR_RESULTS));
    let of =
        |(results, predicted): (f64, f64)| bounded((results / record + PRIOR_RESULTS) / (predicted + PRIOR_RESULTS));
    (record, records.map(of))
}

/// What the plans of a tick teach each other.
#[derive(Default)]
struct Shared {
    records: [(f64, f64); CHANNELS],
    /// Sum of thresholds by certainty, and of certainties.
    thresholds: (f64, f64),
}

impl Shared {
    /// Adds a plan's results, and how many its predicted value stands for, by channel.
    #[expect(clippy::cast_precision_loss, reason = "counts and figures for a controller")]
    fn add_record(&mut self, seen: &PlanObservation) {
        if seen.results == 0 || seen.earned.0 <= 0 || seen.expected.0 <= 0 {
            return;
        }
        let each = seen.results as f64 / seen.earned.0 as f64;
        for (record, channel) in self.records.iter_mut().zip(&seen.channels) {
            *record = (record.0 + channel.earned.0 as f64 * each, record.1 + channel.expected.0 as f64 * each);
        }
    }

    /// Adds what the last tick told a forecasting policy.
    fn add_surprise(&mut self, policy: &AnyPolicy, profile: &mut Profile, began: f64) {
        let AnyPolicy::Mpc(mpc) = policy else { return };
        if let Some((surprise, threshold, certainty)) = mpc.surprise() {
            self.thresholds = (self.thresholds.0 + certainty * threshold, self.thresholds.1 + certainty);
            profile.report(began, surprise, certainty);
        }
    }

    fn settle(self, records: &mut [(f64, f64); CHANNELS], threshold: &mut f64) {
        if self.records.iter().any(|(_, predicted)| *predicted > 0.0) {
            *records = self.records;
        }
        if self.thresholds.1 > 0.0 {
            *threshold = self.thresholds.0 / self.thresholds.1;
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "Unix seconds are far below 2^53")]
fn runs_at(plan: &Plan, now: f64) -> bool {
    now >= plan.starts_at as f64 && now < plan.ends_at as f64
}
