//! Both arms of an experiment: each has its own policy, users and money, and figures of its own.

use super::{CellResults, ChannelSeen, Control, PlanObservation, PlanResults, PlanTotals};
use crate::auction::slot::CHANNELS;
use crate::money::Micros;
use crate::plans::{Arm, Experiment, Plan, PolicyKind};
use serde::{Deserialize, Serialize};

/// A plan's experiment since it began.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    experiment: Experiment,
    /// Results of each arm when it began.
    base: [PlanResults; 2],
    /// Spend of each arm when it began, micros.
    spent: [Micros; 2],
}

/// What one arm did since the experiment began.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ArmFigures {
    /// Its policy.
    pub policy: PolicyKind,
    /// Share of the users.
    pub users: f64,
    /// Multiplier now.
    pub multiplier: f64,
    /// Spent, micros.
    pub spent_micros: Micros,
    /// Impressions, clicks, conversions.
    pub impressions: u64,
    /// Clicks.
    pub clicks: u64,
    /// Conversions.
    pub conversions: u64,
    /// Sum of order values, micros.
    pub order_value_micros: Micros,
    /// Predicted value of the impressions, micros.
    pub expected_micros: Micros,
    /// Spend that the results justify over spend: above 1 the goal is met; absent while nothing is spent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub return_ratio: Option<f64>,
}

/// Spend of an arm.
fn spent_of(parts: &[Micros], arm: Arm) -> Micros {
    Micros(parts[arm as usize * CHANNELS..][..CHANNELS].iter().map(|part| part.0).sum())
}

fn total(channels: &[PlanResults; CHANNELS]) -> PlanResults {
    channels.iter().fold(PlanResults::default(), |sum, channel| sum.plus(channel))
}

#[expect(clippy::cast_precision_loss, reason = "figures and shares of budgets; no money moves")]
fn float(amount: Micros) -> f64 {
    amount.0 as f64
}

impl Trial {
    /// Begins an experiment: what is left of the money is divided by the arms' shares.
    pub(super) fn begin(experiment: Experiment, totals: &PlanTotals) -> Self {
        let parts = totals.results.spent(totals.spent);
        let of = |arm| (total(&totals.results.arm(arm)), spent_of(&parts, arm));
        let [(a, spent_a), (b, spent_b)] = [of(Arm::First), of(Arm::Second)];
        Self { experiment, base: [a, b], spent: [spent_a, spent_b] }
    }

    /// Whether a plan's experiment is still this one.
    pub(super) fn is(&self, experiment: &Experiment) -> bool {
        self.experiment == *experiment
    }

    fn share(&self, arm: Arm) -> f64 {
        match arm {
            Arm::First => 1.0 - self.experiment.share,
            Arm::Second => self.experiment.share,
        }
    }

    /// An arm's part of an amount of which the plan had spent some when the experiment began.
    fn part(&self, arm: Arm, amount: Micros) -> Micros {
        let before = self.spent[0].0.saturating_add(self.spent[1].0);
        let left = Micros(amount.0.saturating_sub(before).max(0));
        #[expect(clippy::cast_possible_truncation, reason = "below the amount")]
        let part = (float(left) * self.share(arm)).floor() as i64;
        Micros(self.spent[arm as usize].0.saturating_add(part))
    }

    /// Figures of both arms, the first arm's first.
    #[must_use]
    pub fn figures(&self, plan: &Plan, results: &CellResults, spent: Micros, multipliers: [f64; 2]) -> [ArmFigures; 2] {
        let parts = results.spent(spent);
        [Arm::First, Arm::Second].map(|arm| {
            let since = total(&results.arm(arm)).since(&self.base[arm as usize]);
            let spent = Micros((spent_of(&parts, arm).0 - self.spent[arm as usize].0).max(0));
            ArmFigures {
                policy: if arm == Arm::First { plan.policy } else { self.experiment.policy },
                users: self.share(arm),
                multiplier: multipliers[arm as usize],
                spent_micros: spent,
                impressions: since.impressions,
                clicks: since.clicks,
                conversions: since.conversions,
                order_value_micros: since.order_value,
                expected_micros: since.expected,
                return_ratio: (spent.0 > 0).then(|| float(since.earned(plan)) / float(spent)),
            }
        })
    }
}

/// What an arm's policy sees: of a plan without an experiment all of it, whichever cells its results are in.
pub(super) fn observation(
    plan: &Plan,
    totals: &PlanTotals,
    trial: Option<&Trial>,
    arm: Arm,
    now: f64,
) -> PlanObservation {
    let (allowance, period_ends_at) = plan.period(now);
    let parts = totals.results.spent(totals.spent);
    let channel = |channel: usize| {
        let cell = |arm: Arm| (totals.results.arm(arm)[channel], parts[arm as usize * CHANNELS + channel]);
        match trial {
            Some(_) => cell(arm),
            None => {
                let ((a, spent_a), (b, spent_b)) = (cell(Arm::First), cell(Arm::Second));
                (a.plus(&b), Micros(spent_a.0.saturating_add(spent_b.0)))
            }
        }
    };
    let channels: [(PlanResults, Micros); CHANNELS] = std::array::from_fn(channel);
    let results = channels.iter().fold(PlanResults::default(), |sum, (of, _)| sum.plus(of));
    let part = |amount: Micros| trial.map_or(amount, |trial| trial.part(arm, amount));
    PlanObservation {
        budget: part(plan.budget_micros),
        spent: Micros(channels.iter().map(|(_, spent)| spent.0).sum()),
        earned: results.earned(plan),
        results: results.counted(&plan.goal),
        impressions: results.impressions,
        expected: results.expected,
        starts_at: plan.starts_at,
        ends_at: plan.ends_at,
        allowance: part(allowance),
        period_ends_at,
        channels: channels.map(|(of, spent)| ChannelSeen {
            impressions: of.impressions,
            spent,
            expected: of.expected,
            earned: of.earned(plan),
        }),
    }
}

/// The control of an arm that has used up its part of the money: the rest is the other arm's.
pub(super) fn stopped() -> Control {
    Control::everywhere(0.0)
}
