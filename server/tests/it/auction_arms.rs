//! Experiments: two policies on one plan, each with its users, its money and its figures.

#![expect(clippy::cast_possible_truncation, reason = "amounts of a test are small")]

use crate::catalog_kit::{handle, item, plan};
use longbow::auction::pace::{
    Cell, CellResults, ControlLoop, Outcomes, PlanOutcome, PlanTotals, SavedControls, SavedResults,
};
use longbow::auction::slot::Channel;
use longbow::catalog::{CatalogHandle, Change};
use longbow::money::Micros;
use longbow::plans::{Arm, Experiment, Goal, Plan, PolicyKind};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const START: i64 = 1_700_006_400;
const DAY: i64 = 86_400;
const BUDGET: i64 = 4_000_000;

fn tried(experiment: Option<Experiment>) -> Plan {
    let mut record = plan("p", &["a"]);
    (record.starts_at, record.ends_at) = (START, START + DAY);
    record.budget_micros = Micros(BUDGET);
    record.policy = PolicyKind::Fixed;
    record.goal = Goal::Cpa { target_micros: Micros(20_000) };
    record.strategy.experiment = experiment;
    record
}

fn set(catalog: &CatalogHandle, experiment: Option<Experiment>) {
    catalog.apply(vec![Change::Plan(tried(experiment))]).unwrap();
}

/// A plan on a second-price market where the whole day at multiplier 1 would cost five times the budget.
struct Trading {
    catalog: CatalogHandle,
    control: ControlLoop,
    outcomes: Outcomes,
    rng: StdRng,
    spent: i64,
}

impl Trading {
    fn new(experiment: Option<Experiment>) -> Self {
        let catalog = handle();
        catalog.apply(vec![Change::Item(item("a", &[]))]).unwrap();
        set(&catalog, experiment);
        let (control, outcomes) = (ControlLoop::new(), Outcomes::new());
        Self { catalog, control, outcomes, rng: StdRng::seed_from_u64(11), spent: 0 }
    }

    fn totals(&self) -> PlanTotals {
        let (spent, free) = (Micros(self.spent), Micros(BUDGET - self.spent));
        PlanTotals { spent, free, results: self.outcomes.cells(0) }
    }

    fn ticks(&mut self, ticks: std::ops::Range<i64>) {
        let catalog = self.catalog.snapshot();
        let record = &catalog.plan(0).unwrap().record;
        for tick in ticks {
            let totals = self.totals();
            let controls = self.control.tick((START + DAY * tick / 240) as f64, &catalog, |_, _| totals);
            for _ in 0..200 {
                let user = format!("user-{}", self.rng.random_range(0..5_000));
                let cell = Cell::of(record, &user, Channel::Exchange);
                let value: f64 = self.rng.random_range(500.0..1_500.0);
                let price = self.rng.random_range(500.0..1_500.0) as i64;
                let bid = (value * controls.multiplier_in(0, cell)) as i64;
                if controls.live.plans.get(0) && bid.min(BUDGET - self.spent) >= price {
                    self.spent += price;
                    self.outcomes.record(0, cell, PlanOutcome::Paid(Micros(price)));
                    self.outcomes.record(0, cell, PlanOutcome::Impression(Micros(value as i64)));
                }
            }
        }
    }

    fn figures(&mut self, at: i64) -> [longbow::auction::pace::ArmFigures; 2] {
        let (catalog, totals) = (self.catalog.snapshot(), self.totals());
        let controls = self.control.tick((START + DAY * at / 240) as f64, &catalog, |_, _| totals);
        let multipliers = [Arm::First, Arm::Second].map(|arm| controls.of(0, arm).multiplier);
        let trial = controls.trial(0).expect("an experiment runs");
        trial.figures(&catalog.plan(0).unwrap().record, &totals.results, totals.spent, multipliers)
    }
}

#[test]
fn each_arm_has_its_share_of_the_money_and_the_figures_show_the_better_policy() {
    let experiment = Experiment { policy: PolicyKind::Mpc, share: 0.5 };
    let mut trading = Trading::new(Some(experiment));
    trading.ticks(0..200);
    let controls = trading.figures(200);
    let [fixed, mpc] = controls;
    assert_eq!((fixed.policy, mpc.policy), (PolicyKind::Fixed, PolicyKind::Mpc));
    assert_eq!(fixed.spent_micros.0 + mpc.spent_micros.0, trading.spent);
    // The fixed arm is out of its half before noon and does not touch the other's; a tick of it costs 42,000.
    assert!((BUDGET / 2..BUDGET / 2 + 84_000).contains(&fixed.spent_micros.0), "{fixed:?}");
    assert_eq!(fixed.multiplier, 0.0);
    assert!(mpc.multiplier > 0.0 && mpc.spent_micros.0 > BUDGET / 2 * 7 / 10, "{mpc:?}");
    let worth = |arm: &longbow::auction::pace::ArmFigures| arm.expected_micros.0 as f64 / arm.spent_micros.0 as f64;
    assert!(worth(&mpc) > 1.1 * worth(&fixed), "{} against {}", worth(&mpc), worth(&fixed));
    trading.ticks(200..240);
    assert!(trading.spent <= BUDGET);
}

#[test]
fn an_experiment_that_begins_later_divides_what_is_left_and_counts_from_there() {
    let mut trading = Trading::new(None);
    trading.ticks(0..20);
    let before = trading.spent;
    assert!(before > 1_000_000, "{before}");
    let experiment = Experiment { policy: PolicyKind::Mpc, share: 0.25 };
    set(&trading.catalog, Some(experiment));
    let [first, second] = trading.figures(20);
    assert_eq!((first.spent_micros, second.spent_micros, first.impressions), (Micros(0), Micros(0), 0));
    trading.ticks(21..240);
    let [first, second] = trading.figures(239);
    assert_eq!(first.spent_micros.0 + second.spent_micros.0, trading.spent - before);
    let quarter = (BUDGET - before) / 4;
    // It may end a tick's spend above its share: 21,000 for a quarter of the users at multiplier 1.
    assert!((quarter * 9 / 10..quarter + 21_000).contains(&second.spent_micros.0), "{second:?} of {quarter}");

    // A restart keeps how it began; the end of it leaves one policy on everything.
    let text = serde_json::to_string(&trading.control.save()).unwrap();
    let saved: SavedControls = serde_json::from_str(&text).unwrap();
    trading.control = ControlLoop::restore(saved);
    assert_eq!(trading.figures(239), [first, second].map(|arm| arm), "nothing is lost");
    set(&trading.catalog, None);
    let (catalog, totals) = (trading.catalog.snapshot(), trading.totals());
    let controls = trading.control.tick((START + DAY - 100) as f64, &catalog, |_, _| totals);
    assert!(controls.trial(0).is_none() && trading.control.save().trials.is_empty());
    assert_eq!(controls.multiplier(0), 1.0);
}

#[test]
fn results_are_kept_by_cell_and_older_ones_are_the_first_cells() {
    let trading = Trading::new(Some(Experiment { policy: PolicyKind::Pid, share: 0.5 }));
    let cell = Cell { arm: Arm::Second, channel: Channel::Live };
    trading.outcomes.record(0, cell, PlanOutcome::Impression(Micros(7)));
    trading.outcomes.record(0, cell, PlanOutcome::Paid(Micros(5)));
    trading.outcomes.record(0, Cell::default(), PlanOutcome::Click);
    let catalog = trading.catalog.snapshot();
    let text = serde_json::to_string(&trading.outcomes.save(&catalog)).unwrap();
    let again = Outcomes::new();
    again.restore(&catalog, &serde_json::from_str(&text).unwrap());
    assert_eq!(again.cells(0), trading.outcomes.cells(0));
    assert_eq!(again.cells(0).arm(Arm::Second)[Channel::Live as usize].paid, Micros(5));
    let old = r#"[["p", {"impressions": 3, "clicks": 1, "conversions": 0, "order_value": 0, "expected": 90}]]"#;
    let old: Vec<(longbow::ids::Id, SavedResults)> = serde_json::from_str(old).unwrap();
    again.restore(&catalog, &old);
    let cells = again.cells(0);
    assert_eq!((cells.0[0].impressions, cells.total().impressions), (3, 3));
    assert_ne!(cells, CellResults::default());
    assert_eq!(cells.spent(Micros(100))[0], Micros(100));
}
