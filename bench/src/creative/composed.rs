//! A crowd of composed creatives with real click rates. As in the server, an impression counts in its creative's record at
//! once, as one without a click yet; clicks are told at the end of each batch, and then the shared prior learns. The model
//! knows the elements of each creative and nothing of the rates. Harder: impressions told with the clicks too.

use super::{ComposedArgs, mean_and_deviation};
use crate::out;
use anyhow::{Context, ensure};
use longbow::auction::choose::{Own, Prior, Rule, SPREAD_START, Seen};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use rand_distr::{Binomial, Distribution, StandardNormal};
use serde::Serialize;
use std::collections::BTreeMap;

/// Click rate before anything was seen.
const RATE_START: f64 = 0.03;
/// Impressions that it counts as.
const RATE_STRENGTH: f64 = 30.0;
/// An element moves the click rate by about this share of it.
const ELEMENT_SPREAD: f64 = 0.03;
/// Impressions ahead that a choice reckons with at least, to the end of a run.
const HORIZON_MIN: f64 = 2_000.0;

struct Crowd {
    /// Features of each creative: the common one and its elements.
    features: Vec<Vec<usize>>,
    /// Number of features.
    dims: usize,
    rates: Vec<f64>,
}

/// The figures of all runs.
#[derive(Serialize)]
struct Figures {
    creatives: usize,
    impressions: u64,
    batch: u64,
    impressions_late: bool,
    seeds: u64,
    /// Clicks over impressions, mean over runs.
    click_rate: f64,
    deviation: f64,
    best: f64,
    mean: f64,
    runs: Vec<f64>,
}

pub(super) fn run(args: &ComposedArgs) -> anyhow::Result<()> {
    let crowd = read(args)?;
    let mut runs = Vec::new();
    for seed in args.seed..args.seed + args.seeds {
        let rate = play(&crowd, args, seed)?;
        out::line(format!("seed {seed}: click rate {rate:.5}"));
        runs.push(rate);
    }
    let (click_rate, deviation) = mean_and_deviation(&runs);
    let (mean, _) = mean_and_deviation(&crowd.rates);
    let best = crowd.rates.iter().copied().fold(0.0, f64::max);
    out::line(format!("mean {click_rate:.5}, deviation {deviation:.5}; best creative {best:.5}, at random {mean:.5}"));
    let figures = Figures {
        creatives: crowd.rates.len(),
        impressions: args.impressions,
        batch: args.batch,
        impressions_late: args.impressions_late,
        seeds: args.seeds,
        click_rate,
        deviation,
        best,
        mean,
        runs,
    };
    out::json(args.json, &figures)
}

fn read(args: &ComposedArgs) -> anyhow::Result<Crowd> {
    let text = std::fs::read_to_string(&args.file).with_context(|| args.file.display().to_string())?;
    let mut elements: Vec<Vec<u32>> = Vec::new();
    let mut rates = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong =
            || format!("{} line {}: expected an id, elements and a click rate", args.file.display(), number + 1);
        let fields: Vec<&str> = line.split_whitespace().collect();
        ensure!(fields.len() >= 3, wrong());
        let (rate, of_elements) = fields[1..].split_last().with_context(wrong)?;
        let rate: f64 = rate.parse().with_context(wrong)?;
        ensure!((0.0..=1.0).contains(&rate), wrong());
        elements.push(of_elements.iter().map(|text| text.parse()).collect::<Result<_, _>>().with_context(wrong)?);
        rates.push(rate);
    }
    ensure!(!rates.is_empty(), "{}: no creative in it", args.file.display());
    let width = elements[0].len();
    ensure!(elements.iter().all(|one| one.len() == width), "{}: lines differ in length", args.file.display());
    // A part that never varies says nothing.
    let varied: Vec<usize> =
        (0..width).filter(|&part| elements.iter().any(|one| one[part] != elements[0][part])).collect();
    let mut known: BTreeMap<(usize, u32), usize> = BTreeMap::new();
    let mut features = Vec::new();
    for one in &elements {
        let mut own = vec![0];
        for &part in &varied {
            let next = known.len() + 1;
            own.push(*known.entry((part, one[part])).or_insert(next));
        }
        features.push(own);
    }
    Ok(Crowd { features, dims: known.len() + 1, rates })
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn play(crowd: &Crowd, args: &ComposedArgs, seed: u64) -> anyhow::Result<f64> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut variances = vec![(ELEMENT_SPREAD * RATE_START).powi(2); crowd.dims];
    variances[0] = RATE_START * RATE_START;
    let mut mean = vec![0.0; variances.len()];
    mean[0] = RATE_START;
    let mut prior = Prior::new(mean, variances);
    let mut seen = vec![Seen::default(); crowd.rates.len()];
    let (mut shown, mut clicks, mut relative) = (0, 0_u64, SPREAD_START);
    while shown < args.impressions {
        let batch = args.batch.min(args.impressions - shown);
        let rate = (clicks as f64 + RATE_STRENGTH * RATE_START) / (shown as f64 + RATE_STRENGTH);
        // It is known how long a run is.
        let rule = Rule::new(rate, relative).over(((args.impressions - shown) as f64).max(HORIZON_MIN));
        let features: Vec<(f64, f64)> = (0..seen.len()).map(|creative| prior.known(&terms(crowd, creative))).collect();
        let learned = |(seen, &(expected, uncertainty)): (&Seen, &(f64, f64))| rule.own(*seen, expected, uncertainty);
        let own: Vec<Own> = seen.iter().zip(&features).map(learned).collect();
        let picks = choose(&rule, own.clone(), batch, &mut rng, |creative, pending| {
            let pending = if args.impressions_late { 0 } else { pending };
            let seen = Seen { impressions: seen[creative].impressions + pending as f64, ..seen[creative] };
            learned((&seen, &features[creative]))
        });
        for (creative, &count) in picks.iter().enumerate().filter(|(_, count)| **count > 0) {
            let clicked = Binomial::new(count, crowd.rates[creative])?.sample(&mut rng);
            let mut row = vec![0.0; prior.dims()];
            crowd.features[creative].iter().for_each(|&feature| row[feature] = own[creative].share);
            let noise = rule.variance_of_next(&own[creative], count as f64);
            prior.observe(&row, clicked as f64 / count as f64 - own[creative].record, noise);
            seen[creative].impressions += count as f64;
            seen[creative].clicks += clicked as f64;
            clicks += clicked;
        }
        shown += batch;
        let records = seen.iter().enumerate().filter(|(_, seen)| seen.impressions > 0.0);
        let expected = records.map(|(creative, seen)| (*seen, prior.known(&terms(crowd, creative)).0));
        relative = rule.learned_spread((SPREAD_START * rate).powi(2), expected).sqrt() / rate;
    }
    Ok(clicks as f64 / shown as f64)
}

fn terms(crowd: &Crowd, creative: usize) -> Vec<(usize, f64)> {
    crowd.features[creative].iter().map(|&feature| (feature, 1.0)).collect()
}

/// How often each creative is shown in a batch. Each impression is chosen by itself, as the server does, and `learned` tells
/// what is known of the creative shown when so many of its impressions wait for their clicks.
fn choose(
    rule: &Rule,
    mut own: Vec<Own>,
    batch: u64,
    rng: &mut (impl Rng + ?Sized),
    learned: impl Fn(usize, u64) -> Own,
) -> Vec<u64> {
    let mut picks = vec![0; own.len()];
    for _ in 0..batch {
        let mut best = (f64::NEG_INFINITY, 0);
        for (creative, own) in own.iter().enumerate() {
            let drawn = rule.draw(own, rng.sample(StandardNormal));
            if drawn > best.0 {
                best = (drawn, creative);
            }
        }
        picks[best.1] += 1;
        own[best.1] = learned(best.1, picks[best.1]);
    }
    picks
}
