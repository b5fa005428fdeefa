//! `longbow dataset`: the demo world as a file to train on or to judge by, with the best figures that anybody could reach.

use super::impressions::Panel;
use super::{Market, Taxonomy, items};
use crate::config;
use crate::dataset::{About, Dataset, FORMAT, Items, Truth};
use crate::eval::labels::{Labelled, Row};
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Shown below `longbow dataset --help`.
pub const EXAMPLE: &str = "Example:\n  longbow dataset --split train --out world-train.safetensors\n  \
    longbow dataset --split held-out --out world-held-out.safetensors\n  \
    longbow eval --format dataset world-held-out.safetensors\n\n\
    Nobody is in both splits, and neither holds a user of `longbow demo`. `best` is the AUC of the true probabilities that the\n\
    labels were drawn from: no model can do better but by luck.";

/// Largest number of users in a file.
const USERS_MAX: u64 = 1_000_000;

/// Whom a file is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Split {
    /// Users of 30 to 10,000 events, each shown slates at moments of the history
    Train,
    /// Users of 10,000 events, each with the next visit held out and one slate shown when it begins
    HeldOut,
}

/// Arguments of `dataset`.
#[derive(Clone, Debug, Args)]
pub struct WorldArgs {
    /// Whom the file is about
    #[arg(long, value_enum)]
    pub split: Split,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Users [default: 6000 to train on, 600 held out]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=USERS_MAX))]
    pub users: Option<u64>,
    /// Items of the world
    #[arg(long, default_value_t = config::Demo::default().items)]
    pub items: usize,
    /// Most events of a user
    #[arg(long, default_value_t = config::Demo::default().long_events)]
    pub events: usize,
    /// Slates shown to each user of the train split
    #[arg(long, default_value_t = 24)]
    pub slates: usize,
    /// Items of a slate [default: 16 to train on, 200 held out]
    #[arg(long)]
    pub slate_items: Option<usize>,
    /// Seed of the world
    #[arg(long, default_value_t = config::Demo::default().seed)]
    pub seed: u64,
    /// When it is, Unix seconds: everything happened before
    #[arg(long, default_value_t = 1_764_000_000)]
    pub now: i64,
}

/// What was written.
#[derive(Clone, Debug, Serialize)]
pub struct Written {
    /// Users.
    pub users: usize,
    /// Events of all of them.
    pub events: usize,
    /// Items shown.
    pub impressions: usize,
    /// Share of them that was clicked.
    pub click_rate: f64,
    /// Share of the clicked that converted.
    pub conversion_rate: f64,
    /// Best achievable figures: of the truth.
    pub best: BTreeMap<String, f64>,
}

/// Makes a world's users and writes them; `tell` hears how many are done.
///
/// # Errors
/// Numbers that cannot be used, or a file that cannot be written.
pub fn dataset(args: &WorldArgs, made_by: String, tell: impl FnMut(usize)) -> anyhow::Result<Written> {
    if args.items < 200 || args.items > 10_000_000 {
        bail!("--items: must be from 200 to 10000000, so that categories have items");
    }
    if args.events < 30 || args.events > 1_000_000 {
        bail!("--events: must be from 30 to 1000000");
    }
    let (train, base, users, slate) = match args.split {
        Split::Train => (true, 10_000_000, 6_000, 16),
        Split::HeldOut => (false, 20_000_000, 600, 200),
    };
    let slate_items = args.slate_items.unwrap_or(slate);
    if slate_items == 0 || slate_items > 4_096 || (train && !(1..=256).contains(&args.slates)) {
        bail!("--slate-items: must be from 1 to 4096; --slates: from 1 to 256");
    }
    let taxonomy = Taxonomy::new();
    let items = items(&taxonomy, args.items);
    let market = Market::new(&taxonomy, &items);
    let on_offer = Items {
        ids: (1..).take(items.len()).collect(),
        dimension: super::DIM,
        vectors: items.iter().flat_map(|item| item.vector.iter().copied()).collect(),
        prices: items.iter().map(|item| item.price_micros.0).collect(),
    };
    let mut data = Dataset { items: on_offer, ..Dataset::default() };
    let panel = Panel {
        seed: args.seed,
        first_user: base,
        now: args.now,
        slates: if train { args.slates } else { 0 },
        slate_items,
    };
    let users = args.users.unwrap_or(users);
    let mut rng = StdRng::seed_from_u64(args.seed ^ 0xda7a);
    let most = args.events;
    let lengths = (0..users).map(move |_| if train { train_events(most, &mut rng) } else { most });
    panel.add(&mut data, &market, lengths, tell);
    let best = best(&data).context("no impressions")?;
    data.about = About { format: FORMAT, seed: Some(args.seed), made_by, best: best.clone(), ..About::default() };
    let written = written(&data, best);
    crate::dataset::write(&args.out, &data)?;
    Ok(written)
}

/// Events of one user of the train split: of every length that is served, a fifth of them as long as it gets.
fn train_events(most: usize, rng: &mut StdRng) -> usize {
    let (from, until) = match rng.random_range(0..100_u8) {
        0..25 => (30, 300),
        25..60 => (300, 1_600),
        60..80 => (1_600, 5_000),
        _ => return most,
    };
    rng.random_range(from..until).min(most)
}

/// AUC of the true probabilities.
fn best(data: &Dataset) -> Option<BTreeMap<String, f64>> {
    let shown = data.impressions.as_ref()?;
    let Truth { click, conversion } = shown.truth.as_ref()?;
    let auc = |predicted: &dyn Fn(usize) -> f64, labels: &[u8]| {
        let row = |(at, &label): (usize, &u8)| Row { user: 0, predicted: predicted(at), label: label != 0 };
        Labelled::new(labels.iter().enumerate().map(row).collect()).auc(&[1])
    };
    let click_auc = auc(&|at| f64::from(click[at]), &shown.click);
    let conversion_auc = auc(&|at| f64::from(click[at]) * f64::from(conversion[at]), &shown.conversion);
    let known = [("auc_click", click_auc), ("auc_conversion", conversion_auc)];
    Some(known.into_iter().filter(|(_, auc)| auc.is_finite()).map(|(name, auc)| (name.to_owned(), auc)).collect())
}

#[expect(clippy::cast_precision_loss, reason = "shares of counts")]
fn written(data: &Dataset, best: BTreeMap<String, f64>) -> Written {
    let (clicks, conversions, impressions) = data.impressions.as_ref().map_or((0, 0, 0), |shown| {
        let count = |list: &[u8]| list.iter().filter(|&&label| label != 0).count();
        (count(&shown.click), count(&shown.conversion), shown.items.len())
    });
    Written {
        users: data.users.len(),
        events: data.events.items.len(),
        impressions,
        click_rate: clicks as f64 / impressions.max(1) as f64,
        conversion_rate: conversions as f64 / clicks.max(1) as f64,
        best,
    }
}
