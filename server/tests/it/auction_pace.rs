//! Pacing: the control tick, and the loop closed over a small synthetic market.

#![expect(clippy::cast_possible_truncation, reason = "amounts of a test are small")]

use crate::catalog_kit::{handle, id, item, plan};
use longbow::auction::pace::{
    Cell, CellResults, ControlLoop, NO_END, NO_FACTORS, Outcomes, Outlook, Pid, PlanObservation, PlanOutcome,
    PlanResults, PlanTotals, Policy, Profile, SavedControls,
};
use longbow::catalog::{CatalogHandle, Change};
use longbow::money::Micros;
use longbow::plans::{CostItem, Goal, Plan, PlanState, PolicyKind};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const START: i64 = 1_700_006_400;
const DAY: i64 = 86_400;

fn one_plan(change: impl FnOnce(&mut longbow::plans::Plan)) -> CatalogHandle {
    let handle = handle();
    let mut record = plan("p", &["a"]);
    (record.starts_at, record.ends_at) = (START, START + DAY);
    change(&mut record);
    handle.apply(vec![Change::Item(item("a", &[])), Change::Plan(record)]).unwrap();
    handle
}

/// What one day brought.
struct Day {
    spent: i64,
    /// True expected earnings of what was bought.
    earned: f64,
    /// Spend at noon.
    half: i64,
}

/// A second-price market: impressions are worth 500 to 1,500 micros to the plan, the others bid `dearness` times an
/// independent draw of the same. Conversions justify 20,000 micros each. Predictions are `bias` times the truth.
fn run_day(policy: PolicyKind, budget: i64, dearness: f64, bias: f64) -> Day {
    let handle = one_plan(|plan| {
        plan.budget_micros = Micros(budget);
        plan.policy = policy;
        plan.goal = Goal::Cpa { target_micros: Micros(20_000) };
    });
    let catalog = handle.snapshot();
    let (mut control, outcomes) = (ControlLoop::new(), Outcomes::new());
    let mut rng = StdRng::seed_from_u64(42);
    let mut day = Day { spent: 0, earned: 0.0, half: 0 };
    for tick in 0..240 {
        if tick == 120 {
            day.half = day.spent;
        }
        let now = (START + DAY * tick / 240) as f64;
        let totals = |_, _: &_| PlanTotals {
            spent: Micros(day.spent),
            free: Micros(budget - day.spent),
            results: outcomes.cells(0),
        };
        let controls = control.tick(now, &catalog, totals);
        for _ in 0..200 {
            let value = rng.random_range(500.0..1_500.0);
            let price = (dearness * rng.random_range(500.0..1_500.0)) as i64;
            let bid = (value * bias * controls.multiplier(0)) as i64;
            if controls.live.plans.get(0) && bid.min(budget - day.spent) >= price {
                day.spent += price;
                day.earned += value;
                outcomes.record(0, Cell::default(), PlanOutcome::Impression(Micros((value * bias) as i64)));
                if rng.random_bool(value / 20_000.0) {
                    outcomes.record(0, Cell::default(), PlanOutcome::Conversion(Micros::ZERO));
                }
            }
        }
    }
    day
}

#[test]
fn a_tight_budget_is_spent_evenly_and_never_exceeded() {
    let budget = 8_000_000; // at multiplier 1 the day would cost about 20,000,000
    let day = run_day(PolicyKind::Pid, budget, 1.0, 1.0);
    assert!(day.spent <= budget);
    assert!(day.spent as f64 > 0.95 * budget as f64, "{}", day.spent);
    assert!((0.40..0.60).contains(&(day.half as f64 / budget as f64)), "half by noon: {}", day.half);
    let fixed = run_day(PolicyKind::Fixed, budget, 1.0, 1.0);
    assert!(fixed.spent <= budget);
    assert!(fixed.half as f64 > 0.95 * budget as f64, "without control it is gone by noon: {}", fixed.half);
    assert!(day.earned > 1.1 * fixed.earned, "and buys less: {} {}", fixed.earned, day.earned);
}

#[test]
fn a_return_target_binds_where_the_market_is_dear() {
    let budget = 1_000_000_000; // cannot be spent at target
    for bias in [1.0, 2.0] {
        let day = run_day(PolicyKind::Pid, budget, 1.2, bias);
        let ratio = day.earned / day.spent as f64;
        assert!(ratio > 0.95, "bias {bias}: return {ratio}");
        assert!(day.spent > 10_000_000, "bias {bias}: it still buys: {}", day.spent);
    }
    let fixed = run_day(PolicyKind::Fixed, budget, 1.2, 2.0);
    assert!(fixed.earned / (fixed.spent as f64) < 0.95, "uncorrected, such predictions miss the target");
}

#[test]
fn a_plan_without_an_end_has_no_schedule_and_keeps_its_target() {
    let mut pid = Pid::default();
    let seen = |spent: i64, earned: i64, ends_at| PlanObservation {
        budget: Micros(1_000_000_000),
        spent: Micros(spent),
        earned: Micros(earned),
        results: 1_000,
        impressions: 0,
        expected: Micros(0),
        starts_at: 0,
        ends_at,
        allowance: Micros(1_000_000_000),
        period_ends_at: ends_at,
        channels: Default::default(),
    };
    let profile = Profile::default();
    let outlook = Outlook { profile: &profile, threshold: 0.0, record: 1.0, channels: NO_FACTORS, policy: None };
    assert_eq!(pid.update(&seen(0, 0, NO_END), 1_000.0, &outlook).multiplier, 1.0);
    let mut last = 1.0;
    for step in 1..200 {
        last = pid
            .update(&seen(step * 500_000, step * 1_000_000, NO_END), 1_000.0 + 60.0 * step as f64, &outlook)
            .multiplier;
    }
    assert!(last > 1.5, "twice the return that is asked for: bid more, {last}");
    for step in 200..600 {
        last =
            pid.update(&seen(step * 500_000, 200_000_000, NO_END), 1_000.0 + 60.0 * step as f64, &outlook).multiplier;
    }
    assert!(last < 0.5, "no more results: bid less, {last}");
    assert_eq!(
        pid.update(&seen(0, 0, NO_END), 0.0, &outlook).multiplier,
        last,
        "a clock that steps back changes nothing"
    );
}

#[test]
fn ticks_say_who_is_live_and_keep_their_version() {
    let handle = one_plan(|_| {});
    let mut control = ControlLoop::new();
    let rich = |_, _: &_| PlanTotals { free: Micros(1), ..PlanTotals::default() };
    let at = |seconds: i64| (START + seconds) as f64;
    let early = control.tick(at(-1), &handle.snapshot(), rich);
    assert!(!early.live.plans.get(0) && early.live.known == 1);
    let first = control.tick(at(0), &handle.snapshot(), rich);
    assert!(first.live.plans.get(0) && first.live.version > early.live.version);
    let second = control.tick(at(5), &handle.snapshot(), rich);
    assert_eq!(second.live.version, first.live.version, "cached filters stay valid");
    assert!(second.version > first.version);
    let broke = control.tick(at(6), &handle.snapshot(), |_, _| PlanTotals::default());
    assert!(!broke.live.plans.get(0));
    assert!(!control.tick(at(DAY), &handle.snapshot(), rich).live.plans.get(0));

    let mut record = plan("p", &["a"]);
    record.state = PlanState::Paused;
    handle.apply(vec![Change::Plan(record)]).unwrap();
    assert!(!control.tick(at(7), &handle.snapshot(), rich).live.plans.get(0));
    handle.apply(vec![Change::DeletePlan(id("p"))]).unwrap();
    assert_eq!(control.tick(at(8), &handle.snapshot(), rich).multiplier(0), 1.0);
    assert!(control.save().plans.is_empty());
}

#[test]
fn a_restart_goes_on_where_it_was() {
    let handle = one_plan(|plan| plan.budget_micros = Micros(100_000_000));
    let catalog = handle.snapshot();
    let totals = |spent: i64| {
        move |_: u32, _: &_| PlanTotals { spent: Micros(spent), free: Micros(1), results: CellResults::default() }
    };
    let mut first = ControlLoop::new();
    for step in 0..20 {
        first.tick((START + 60 * step) as f64, &catalog, totals(step * 300_000));
    }
    let text = serde_json::to_string(&first.save()).unwrap();
    let mut second = ControlLoop::restore(serde_json::from_str::<SavedControls>(&text).unwrap());
    assert_eq!(second.save().plans[0].0, id("p"), "nothing is lost before the first tick either");
    let next =
        |control: &mut ControlLoop| control.tick((START + 1_200) as f64, &catalog, totals(6_500_000)).multiplier(0);
    let multiplier = next(&mut first);
    // JSON may cost the last bit of a number.
    assert!((next(&mut second) - multiplier).abs() < 1e-9);
    assert!((multiplier - 1.0).abs() > 0.01, "there was something to remember");
}

#[test]
fn results_are_counted_and_saved() {
    let handle = one_plan(|_| {});
    let outcomes = Outcomes::new();
    outcomes.record(0, Cell::default(), PlanOutcome::Impression(Micros(70)));
    outcomes.record(0, Cell::default(), PlanOutcome::Click);
    outcomes.record(0, Cell::default(), PlanOutcome::Conversion(Micros(9_000_001)));
    let results = outcomes.of(0);
    let mut record = Plan::clone(&handle.snapshot().plan(0).unwrap().record);
    let mut earned = |goal: Goal| {
        record.goal = goal;
        results.earned(&record)
    };
    assert_eq!(earned(Goal::Roi { target: 2.0 }), Micros(4_500_000));
    assert_eq!(earned(Goal::Cpa { target_micros: Micros(5) }), Micros(5));
    assert_eq!(earned(Goal::Cpc { target_micros: Micros(7) }), Micros(7));
    let costs = [("commission", 0.05, 0), ("returns insurance", 0.0, 500_000)];
    let cost = |(name, share, order)| CostItem { name: String::from(name), share, order_micros: Micros(order) };
    record.strategy.costs = costs.map(cost).to_vec();
    record.goal = Goal::Roi { target: 2.0 };
    assert_eq!(results.earned(&record), Micros(4_025_000), "(9,000,001 x 0.95 - 500,000) / 2, rounded down twice");
    let restored = Outcomes::new();
    restored.restore(&handle.snapshot(), &outcomes.save(&handle.snapshot()));
    assert_eq!(restored.of(0), results);
    assert_eq!(restored.of(999_999), PlanResults::default());
}

#[test]
fn mpc_spends_the_budget_evenly_buys_more_than_a_fixed_multiplier_and_says_what_to_expect() {
    let budget = 1_500_000;
    let day = run_day(PolicyKind::Mpc, budget, 1.0, 1.0);
    assert!(day.spent <= budget && day.spent > budget * 96 / 100, "spent {} of {budget}", day.spent);
    let half = day.half as f64 / day.spent as f64;
    assert!((0.4..0.6).contains(&half), "{half} of the spend by noon");
    let fixed = run_day(PolicyKind::Fixed, budget, 1.0, 1.0);
    assert!(day.earned > 1.1 * fixed.earned, "{} against {}", day.earned, fixed.earned);
}

#[test]
fn mpc_meets_the_return_whatever_the_bias_of_the_predictions() {
    for bias in [0.7, 1.0, 1.6] {
        let day = run_day(PolicyKind::Mpc, i64::MAX / 4, 1.2, bias);
        let ratio = day.earned / day.spent as f64;
        assert!((0.93..1.2).contains(&ratio), "earned {ratio} of the spend at a bias of {bias}");
    }
}

#[test]
fn mpc_state_survives_a_restart_and_an_old_state_is_read() {
    let handle = one_plan(|plan| {
        plan.policy = PolicyKind::Mpc;
        plan.goal = Goal::Cpa { target_micros: Micros(20_000) };
        plan.budget_micros = Micros(1_000_000);
    });
    let catalog = handle.snapshot();
    let outcomes = Outcomes::new();
    let mut control = ControlLoop::new();
    let mut spent = 0;
    let tick = |control: &mut ControlLoop, number: i64, spent: &mut i64| {
        for _ in 0..20 {
            outcomes.record(0, Cell::default(), PlanOutcome::Impression(Micros(1_000)));
        }
        *spent += 20 * 600;
        let totals = PlanTotals { spent: Micros(*spent), free: Micros(1_000_000 - *spent), results: outcomes.cells(0) };
        control.tick((START + 600 * number) as f64, &catalog, |_, _| totals)
    };
    for number in 0..10 {
        tick(&mut control, number, &mut spent);
    }
    let text = serde_json::to_string(&control.save()).unwrap();
    let mut again = ControlLoop::restore(serde_json::from_str(&text).unwrap());
    let (before, mut spent_again) = (tick(&mut control, 10, &mut spent).multiplier(0), spent - 12_000);
    // The second loop sees the same impressions but 20: nearly the same answer, not a fresh start.
    let after = tick(&mut again, 10, &mut spent_again).multiplier(0);
    assert!((before / after).ln().abs() < 0.2, "{before} and {after}");
    let forecast = control.tick((START + 6_600) as f64, &catalog, |_, _| PlanTotals::default()).forecast(0).unwrap();
    assert!(forecast.spend > 0.0 && forecast.return_ratio > 0.0 && forecast.spend_error.is_finite());
    let old: SavedControls = serde_json::from_str(r#"{"plans":[["p",{"fixed":null}]]}"#).unwrap();
    assert_eq!(old.plans.len(), 1, "a state of the version before");
}

#[test]
fn day_shares_bound_each_day_and_roll_over() {
    let handle = one_plan(|plan| {
        plan.starts_at = START;
        plan.ends_at = START + 3 * DAY;
        plan.budget_micros = Micros(1_000);
        plan.strategy.day_shares = vec![0.2, 0.5];
    });
    let plan = Plan::clone(&handle.snapshot().plan(0).unwrap().record);
    let at = |hours: i64| plan.period((START + hours * 3_600) as f64);
    assert_eq!(at(0), (Micros(200), START + DAY));
    assert_eq!(at(30), (Micros(700), START + 2 * DAY));
    assert_eq!(at(50), (Micros(1_000), START + 3 * DAY), "no share: the rest of the plan");
    let mut control = ControlLoop::new();
    let mut live = |hour: i64, spent: i64| {
        let totals = PlanTotals { spent: Micros(spent), free: Micros(1_000 - spent), ..PlanTotals::default() };
        control.tick((START + hour * 3_600) as f64, &handle.snapshot(), |_, _| totals).live.plans.get(0)
    };
    assert!(live(1, 199) && !live(2, 200) && live(25, 200) && !live(26, 700) && live(49, 700));
    let mut bad = plan.clone();
    bad.strategy.day_shares = vec![0.7, 0.7];
    assert_eq!(bad.validate().unwrap_err().field, "strategy.day_shares");
}
