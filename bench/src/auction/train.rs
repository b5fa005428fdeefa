//! Trains the policy that moves the solver's multiplier: fitted Q iteration on days of the simulator.
//!
//! Behaviour: `mpc+rl` under random policies (each seed another), so that actions vary in every state. State, action and reward
//! come from the server's own observations; the reward is the value won in a tick as a share of the day's best, and at the
//! end a fine for a return below its target. Q is a quadratic form of the state for each action, fitted by ridge regression.

use super::market::{self, Bidder, MarketOptions, PlanResult, Scenario, Told, World};
use crate::out;
use anyhow::Context;
use clap::Args;
use longbow::auction::pace::rl::{FEATURES, FORMAT, Features, RlPolicy, TERMS};
use longbow::plans::PolicyKind;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;

/// What actions add to the exponent.
const ACTIONS: [f64; 5] = [-0.2, -0.08, 0.0, 0.08, 0.2];
/// Seeds from here on are for training only.
const SEEDS_FROM: u64 = 1_000_000;
/// Rounds of fitted Q iteration: as many as a day has ticks would be exact; values settle sooner.
const ROUNDS: usize = 60;
const RIDGE: f64 = 1.0;
/// Fine for each unit of relative return below the target beyond the tolerated 5%.
const FINE: f64 = 2.0;

#[derive(Args)]
pub(super) struct TrainArgs {
    /// Where the policy is written
    #[arg(long)]
    out: PathBuf,
    /// Simulated days (each has 20 plans)
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    days: u32,
    /// Advantage over doing nothing, as a share of a day's best value, that an action needs
    #[arg(long, default_value_t = 0.002)]
    margin: f64,
    /// End with one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Figures {
    steps: usize,
    /// Mean squared error of the last round's fit.
    error: f64,
    /// Share of training states in which the policy acts.
    acts: f64,
}

/// One step of a log.
struct Step {
    terms: [f64; TERMS],
    action: usize,
    reward: f64,
    /// Position of the next step; `None` at the end of the day.
    next: Option<usize>,
}

/// A policy of random taste, for exploration.
fn random_policy(seed: u64) -> RlPolicy {
    let mut rng = StdRng::seed_from_u64(seed);
    let weights = ACTIONS.map(|_| (0..TERMS).map(|_| rng.random_range(-1.0..1.0)).collect());
    RlPolicy {
        format: FORMAT,
        made_by: "exploration".to_owned(),
        range: [[f64::MIN, f64::MAX]; FEATURES],
        actions: ACTIONS.to_vec(),
        weights: weights.to_vec(),
        margin: 0.0,
    }
}

/// Runs the command.
pub(super) fn run(args: &TrainArgs) -> anyhow::Result<()> {
    let (mut steps, mut states) = (Vec::new(), Vec::new());
    let scenarios =
        [Scenario::Forecast, Scenario::Shock, Scenario::Drift, Scenario::Budget, Scenario::Return, Scenario::Forecast];
    for (day, scenario) in (0..args.days).zip(scenarios.into_iter().cycle()) {
        let seed = SEEDS_FROM + u64::from(day);
        let options = MarketOptions { scenario, ..super::market_options(seed) };
        let bidder = Bidder::Server(PolicyKind::MpcRl, Some(Arc::new(random_policy(seed))));
        for plan in market::run(&World::new(&options)?, &bidder, Told::default())? {
            log(&plan, &mut steps, &mut states);
        }
    }
    let (weights, error) = fit(&steps);
    let policy = RlPolicy {
        format: FORMAT,
        made_by: format!("longbow-bench auction train-policy --days {} --margin {}", args.days, args.margin),
        range: range(&states),
        actions: ACTIONS.to_vec(),
        weights: weights.iter().map(|row| row.to_vec()).collect(),
        margin: args.margin,
    }
    .check()
    .map_err(anyhow::Error::msg)?;
    let acts = states.iter().filter(|state| policy.adjust(state) != 0.0).count();
    let text = serde_json::to_string(&policy)?;
    std::fs::write(&args.out, text).with_context(|| format!("{} cannot be written", args.out.display()))?;
    #[expect(clippy::cast_precision_loss, reason = "counts of steps")]
    let figures = Figures { steps: steps.len(), error, acts: acts as f64 / states.len().max(1) as f64 };
    out::line(format!("{} steps, error {:.6}, acts in {:.2} of states", figures.steps, figures.error, figures.acts));
    out::json(args.json, &figures)
}

/// Adds one plan's day.
fn log(plan: &PlanResult, steps: &mut Vec<Step>, states: &mut Vec<Features>) {
    let best = plan.hindsight_value.max(1e-9);
    let mut value = 0.0;
    let first = steps.len();
    for tick in &plan.path {
        let gained = (tick.value - value) / best;
        value = tick.value;
        let Some((state, added)) = tick.step else { continue };
        let near = |a: &f64| (a - added).abs();
        let action = (0..ACTIONS.len()).min_by(|&a, &b| near(&ACTIONS[a]).total_cmp(&near(&ACTIONS[b]))).unwrap_or(0);
        let next = Some(steps.len() + 1);
        steps.push(Step { terms: state.terms(), action, reward: gained, next });
        states.push(state);
    }
    if steps.len() > first
        && let Some(last) = steps.last_mut()
    {
        last.next = None;
        last.reward -= FINE * (0.95 - plan.expected_ratio()).max(0.0);
    }
}

/// The middle 99.8% of every feature.
fn range(states: &[Features]) -> [[f64; 2]; FEATURES] {
    std::array::from_fn(|feature| {
        let mut values: Vec<f64> = states.iter().map(|state| state.0[feature]).collect();
        values.sort_by(f64::total_cmp);
        let cut = values.len() / 1_000;
        values.get(cut).zip(values.get(values.len().saturating_sub(cut + 1))).map_or([0.0; 2], |(a, b)| [*a, *b])
    })
}

/// Fitted Q iteration; the weights of each action and the last round's mean squared error.
#[expect(clippy::cast_precision_loss, reason = "counts of steps")]
fn fit(steps: &[Step]) -> ([[f64; TERMS]; ACTIONS.len()], f64) {
    let mut gram = vec![vec![[0.0; TERMS]; TERMS]; ACTIONS.len()];
    for step in steps {
        for (row, a) in gram[step.action].iter_mut().zip(&step.terms) {
            row.iter_mut().zip(&step.terms).for_each(|(sum, b)| *sum += a * b);
        }
    }
    for matrix in &mut gram {
        matrix.iter_mut().enumerate().for_each(|(i, row)| row[i] += RIDGE);
    }
    let mut weights = [[0.0; TERMS]; ACTIONS.len()];
    let mut error = 0.0;
    for _ in 0..ROUNDS {
        let mut right = [[0.0; TERMS]; ACTIONS.len()];
        error = 0.0;
        for step in steps {
            let value =
                |terms: &[f64; TERMS], row: &[f64; TERMS]| row.iter().zip(terms).map(|(w, t)| w * t).sum::<f64>();
            let best = |next: usize| weights.iter().map(|row| value(&steps[next].terms, row)).fold(f64::MIN, f64::max);
            // A day is worth about 1: nothing beyond that range is believed.
            let target = step.reward + step.next.map_or(0.0, |next| best(next).clamp(-2.0, 1.5));
            error += (target - value(&step.terms, &weights[step.action])).powi(2);
            right[step.action].iter_mut().zip(&step.terms).for_each(|(sum, t)| *sum += target * t);
        }
        for (action, row) in weights.iter_mut().enumerate() {
            *row = solve(gram[action].clone(), right[action]);
        }
    }
    (weights, error / steps.len().max(1) as f64)
}

/// Solves a positive definite system by Gaussian elimination with pivots.
fn solve(mut matrix: Vec<[f64; TERMS]>, mut right: [f64; TERMS]) -> [f64; TERMS] {
    for column in 0..TERMS {
        let pivot = (column..TERMS)
            .max_by(|&a, &b| matrix[a][column].abs().total_cmp(&matrix[b][column].abs()))
            .unwrap_or(column);
        matrix.swap(column, pivot);
        right.swap(column, pivot);
        let lead = matrix[column];
        for row in column + 1..TERMS {
            let factor = matrix[row][column] / lead[column];
            matrix[row].iter_mut().zip(&lead).skip(column).for_each(|(x, l)| *x -= factor * l);
            right[row] -= factor * right[column];
        }
    }
    for row in (0..TERMS).rev() {
        let known: f64 = (row + 1..TERMS).map(|column| matrix[row][column] * right[column]).sum();
        right[row] = (right[row] - known) / matrix[row][row];
    }
    right
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn solves_what_it_was_given() {
        let mut rng = StdRng::seed_from_u64(2);
        let truth: [f64; TERMS] = std::array::from_fn(|_| rng.random_range(-1.0..1.0));
        let mut matrix = vec![[0.0; TERMS]; TERMS];
        for _ in 0..200 {
            let row: [f64; TERMS] = std::array::from_fn(|_| rng.random_range(-1.0..1.0));
            for i in 0..TERMS {
                for j in 0..TERMS {
                    matrix[i][j] += row[i] * row[j];
                }
            }
        }
        let right = std::array::from_fn(|i| (0..TERMS).map(|j| matrix[i][j] * truth[j]).sum());
        let found = solve(matrix, right);
        assert!(found.iter().zip(&truth).all(|(a, b)| (a - b).abs() < 1e-8));
    }

    #[test]
    fn finds_the_action_that_pays_later() {
        // Two steps: action 4 in the first leads to a reward in the second, action 0 pays a little at once.
        let mut steps = Vec::new();
        for round in 0..400 {
            let patient = round % 2 == 0;
            let early = Features([1.0, 0.0, 0.0, 0.0, 0.0, 0.0]).terms();
            let late = Features([0.0, if patient { 1.0 } else { 0.0 }, 0.0, 0.0, 0.0, 0.0]).terms();
            let next = Some(steps.len() + 1);
            let (action, reward) = if patient { (4, 0.0) } else { (0, 0.1) };
            steps.push(Step { terms: early, action, reward, next });
            steps.push(Step { terms: late, action: 2, reward: if patient { 0.8 } else { 0.0 }, next: None });
        }
        let (weights, _) = fit(&steps);
        let early = Features([1.0, 0.0, 0.0, 0.0, 0.0, 0.0]).terms();
        let worth = |action: usize| -> f64 { weights[action].iter().zip(&early).map(|(w, t)| w * t).sum() };
        assert!(worth(4) > worth(0) + 0.4, "{} against {}", worth(4), worth(0));
    }
}
