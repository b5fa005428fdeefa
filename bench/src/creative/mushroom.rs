//! The mushroom bandit: eating a safe one earns 5, a poisonous one -35 or 5 by a coin, leaving it 0. Outcomes are scaled to
//! 0..1 as clicks are; regret is against knowing which is which, in percent of the regret of choosing by a coin.

use super::{MushroomArgs, mean_and_deviation};
use crate::out;
use anyhow::{Context, ensure};
use longbow::auction::choose::Prior;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use std::collections::HashMap;

/// A feature moves the outcome by about this, before anything was seen; outcomes lie between 0 and 1.
const FEATURE_SPREAD: f64 = 0.1;
/// Variance of an outcome between 0 and 1 before anything was seen, and the steps that it counts as.
const NOISE_START: f64 = 0.25;
const NOISE_STRENGTH: f64 = 10.0;
/// Steps between two factorisations of the covariance.
const LEARN_EVERY: u32 = 20;

struct Mushroom {
    safe: bool,
    features: Vec<usize>,
}

/// The figures of all runs.
#[derive(Serialize)]
struct Figures {
    contexts: u32,
    seeds: u64,
    /// Regret in percent of that of a coin, mean over runs.
    regret_percent: f64,
    deviation: f64,
    runs: Vec<f64>,
}

pub(super) fn run(args: &MushroomArgs) -> anyhow::Result<()> {
    let (mushrooms, dims) = read(args)?;
    let mut runs = Vec::new();
    for seed in args.seed..args.seed + args.seeds {
        let regret = play(&mushrooms, dims, args.contexts, seed);
        out::line(format!("seed {seed}: regret {regret:.2}% of a coin's"));
        runs.push(regret);
    }
    let (mean, deviation) = mean_and_deviation(&runs);
    out::line(format!("mean {mean:.2}%, deviation {deviation:.2}"));
    out::json(args.json, &Figures { contexts: args.contexts, seeds: args.seeds, regret_percent: mean, deviation, runs })
}

fn read(args: &MushroomArgs) -> anyhow::Result<(Vec<Mushroom>, usize)> {
    let text = std::fs::read_to_string(&args.file).with_context(|| args.file.display().to_string())?;
    let mut known: HashMap<(usize, String), usize> = HashMap::new();
    let mut mushrooms = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let mut fields = line.split(',');
        let class = fields.next().unwrap_or_default();
        ensure!(["e", "p"].contains(&class), "{}: the first field must be e or p: {line}", args.file.display());
        let mut features = vec![0];
        for (column, letter) in fields.enumerate() {
            let next = known.len() + 1;
            features.push(*known.entry((column, letter.to_owned())).or_insert(next));
        }
        mushrooms.push(Mushroom { safe: class == "e", features });
    }
    ensure!(!mushrooms.is_empty(), "{}: no mushroom in it", args.file.display());
    Ok((mushrooms, known.len() + 1))
}

/// Outcome of an action on the scale 0 to 1; leaving earns 0 of -35 to 5.
fn outcome(mushroom: &Mushroom, eat: bool, rng: &mut StdRng) -> f64 {
    let earned = match (eat, mushroom.safe) {
        (false, _) => 0.0,
        (true, true) => 5.0,
        (true, false) => {
            if rng.random_bool(0.5) {
                5.0
            } else {
                -35.0
            }
        }
    };
    (earned + 35.0) / 40.0
}

fn play(mushrooms: &[Mushroom], dims: usize, contexts: u32, seed: u64) -> f64 {
    let mut rng = StdRng::seed_from_u64(seed);
    let start = || {
        let mut variances = vec![FEATURE_SPREAD * FEATURE_SPREAD; dims];
        variances[0] = 1.0;
        let mut mean = vec![0.0; dims];
        mean[0] = 0.5;
        Prior::new(mean, variances)
    };
    // Leave, eat: each action's outcome is explained by the same features with weights of its own.
    let mut actions = [start(), start()];
    let mut weights = vec![0.0_f32; dims];
    let mut row = vec![0.0; dims];
    // What each action's model missed by, squared, and how often: outcomes are no clicks, their variance is learned.
    let mut missed = [(NOISE_START * NOISE_STRENGTH, NOISE_STRENGTH); 2];
    let (mut regret, mut of_a_coin) = (0.0, 0.0);
    for step in 0..contexts {
        let mushroom = &mushrooms[rng.random_range(0..mushrooms.len())];
        let mut draws = [0.0; 2];
        for (prior, drawn) in actions.iter().zip(&mut draws) {
            prior.draw(1.0, &mut rng, &mut weights);
            *drawn = mushroom.features.iter().map(|&feature| f64::from(weights[feature])).sum::<f64>();
        }
        let eat = draws[1] > draws[0];
        let seen = outcome(mushroom, eat, &mut rng);
        // What the wrong action loses, in expectation: 5 by leaving a safe one, 15 by eating a poisonous one.
        let loss = if mushroom.safe { 5.0 } else { 15.0 };
        regret += if eat == mushroom.safe { 0.0 } else { loss };
        of_a_coin += loss / 2.0;
        row.fill(0.0);
        mushroom.features.iter().for_each(|&feature| row[feature] = 1.0);
        let (prior, (squares, count)) = (&mut actions[usize::from(eat)], &mut missed[usize::from(eat)]);
        let noise = *squares / *count;
        *squares += (seen - prior.expected(&row)).powi(2);
        *count += 1.0;
        prior.observe(&row, seen, noise);
        if step % LEARN_EVERY == 0 {
            actions.iter_mut().for_each(Prior::refactor);
        }
    }
    100.0 * regret / of_a_coin
}
