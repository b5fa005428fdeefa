//! What a policy brought in a market: means over seeds.

use super::market::{PlanResult, Scenario};
use serde::Serialize;

/// A tick is back on its path when the median plan's spend is this near to what was forecast of it.
const ON_PATH: f64 = 0.1;

/// The figures of a run, means over seeds unless they are counts.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Figures {
    pub(super) policy: String,
    pub(super) scenario: String,
    pub(super) market: String,
    /// First seed, and how many.
    pub(super) seed: u64,
    pub(super) seeds: usize,
    pub(super) plans: usize,
    /// Value over what the best constant multiplier in hindsight gets, all plans of a seed together.
    pub(super) hindsight_share: f64,
    /// Lowest and highest of the seeds.
    pub(super) hindsight_share_range: [f64; 2],
    /// The same where a plan below its return target is marked down by (return / target) squared.
    pub(super) hindsight_share_marked: f64,
    pub(super) spend_ratio: f64,
    /// Mean over plans of expected value / spend / target.
    pub(super) return_ratio: f64,
    /// Mean number of conversions of a plan.
    pub(super) conversions: f64,
    /// Share of plans whose expected return misses the target by more than 5%.
    pub(super) missed: f64,
    /// The same by the conversions that came, luck included.
    pub(super) missed_with_luck: f64,
    /// What that would be for the best constant multiplier in hindsight: what the luck of so few conversions costs whoever knows everything
    /// else.
    pub(super) missed_with_luck_in_hindsight: f64,
    /// Share of plans for which that multiplier misses by more than 5% in over 2% of cases: no multiplier that earns as much can promise
    /// the target.
    pub(super) beyond_promise: f64,
    /// Plans that spent more than their budget: always 0.
    pub(super) over_budget: usize,
    /// Shock only: ticks until spend is back within 10% of its forecast for the median plan; mean over seeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) recovery_ticks: Option<f64>,
    /// First price only: what shading saves of the spend for as many wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) shading_saves: Option<f64>,
    /// Channels only: the share of hindsight of the same policy when it is not told the channels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hindsight_share_untold: Option<f64>,
}

/// Figures of some seeds' plans, names left open.
#[expect(clippy::cast_precision_loss, reason = "counts of plans and seeds")]
pub(super) fn of(scenario: Scenario, all: &[Vec<PlanResult>]) -> Figures {
    let plans: Vec<&PlanResult> = all.iter().flatten().collect();
    let mean =
        |of: &dyn Fn(&PlanResult) -> f64| plans.iter().map(|plan| of(plan)).sum::<f64>() / plans.len().max(1) as f64;
    let average = |numbers: &[f64]| numbers.iter().sum::<f64>() / numbers.len().max(1) as f64;
    let each = |of: &dyn Fn(&PlanResult) -> f64| all.iter().map(|seed| share(seed, of)).collect::<Vec<_>>();
    let shares = each(&|plan| plan.value);
    let flag = |yes: bool| f64::from(u8::from(yes));
    let shock = scenario == Scenario::Shock && plans.iter().any(|p| p.path.iter().any(|t| t.surprise.is_finite()));
    Figures {
        seeds: all.len(),
        plans: all.first().map_or(0, Vec::len),
        hindsight_share: average(&shares),
        hindsight_share_range: [
            shares.iter().copied().fold(f64::INFINITY, f64::min),
            shares.iter().copied().fold(0.0, f64::max),
        ],
        hindsight_share_marked: average(&each(&|plan| plan.value * plan.expected_ratio().min(1.0).powi(2))),
        spend_ratio: mean(&|plan| plan.spent / plan.budget),
        return_ratio: mean(&PlanResult::expected_ratio),
        conversions: mean(&|plan| plan.conversions as f64),
        missed: mean(&|plan| flag(plan.expected_ratio() < 0.95)),
        missed_with_luck: mean(&|plan| flag(plan.roi_ratio() < 0.95)),
        missed_with_luck_in_hindsight: mean(&|plan| plan.hindsight_miss),
        beyond_promise: mean(&|plan| flag(plan.hindsight_miss > 0.02)),
        over_budget: plans.iter().filter(|plan| plan.spent > plan.budget).count(),
        recovery_ticks: shock.then(|| average(&all.iter().map(|seed| recovery(seed)).collect::<Vec<_>>())),
        ..Figures::default()
    }
}

/// A figure of one seed's plans over the value of their best constant multipliers.
pub(super) fn share(plans: &[PlanResult], of: &dyn Fn(&PlanResult) -> f64) -> f64 {
    plans.iter().map(of).sum::<f64>() / plans.iter().map(|plan| plan.hindsight_value).sum::<f64>().max(1e-9)
}

/// Ticks after the shock until the median plan spends what was forecast of the tick.
#[expect(clippy::cast_precision_loss, reason = "ticks of a day")]
fn recovery(plans: &[PlanResult]) -> f64 {
    let ticks = plans[0].path.len();
    let from = ticks.div_ceil(2);
    let off = |tick: usize| {
        let mut surprises: Vec<f64> = plans.iter().map(|p| p.path[tick].surprise).filter(|s| s.is_finite()).collect();
        surprises.sort_by(f64::total_cmp);
        surprises.get(surprises.len() / 2).is_none_or(|median| median.abs() > ON_PATH)
    };
    (from..ticks).take_while(|&tick| off(tick)).count() as f64
}
