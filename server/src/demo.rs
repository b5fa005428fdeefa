//! The demo world: a seeded marketplace that needs nothing but an empty data directory.
//!
//! Items come in categories with content vectors and are the same in every world; plans sell neighbouring items; users have
//! interests with rhythms of minutes to years, and leave histories of a few to ten thousand events. Users, plans and
//! budgets follow from the seed and the time the world is made at. The model was trained on other users of the same
//! marketplace (`longbow dataset`, `scripts/train`) and comes with the program.

mod catalogue;
mod dataset;
mod impressions;
mod interests;
mod market;
mod taxonomy;
mod users;

pub use catalogue::{creatives, items, plans};
pub use dataset::{EXAMPLE as DATASET_EXAMPLE, Split, WorldArgs, dataset};
pub use market::Market;
pub use taxonomy::Taxonomy;
pub use users::{UserPlan, history};

use crate::app::{Stores, models_dir};
use crate::config::{self, Config};
use crate::ids::Id;
use crate::store::{CatalogKind, CatalogRecord};
use anyhow::{Context, bail};
use longbow_model::bundle;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Instant;

/// Entries of a content vector.
pub const DIM: usize = 48;
/// Histories imported together.
const USERS_TOGETHER: usize = 1_000;
/// Records written together.
const RECORDS_TOGETHER: usize = 20_000;

/// What a data directory says of the world in it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Marker {
    format: u32,
    seed: u64,
    items: usize,
    plans: usize,
    creatives: usize,
    users: usize,
    long_users: usize,
    long_events: usize,
    made_at: i64,
    /// False while it is being made.
    whole: bool,
}

impl Marker {
    fn of(demo: &config::Demo, made_at: i64, whole: bool) -> Self {
        Self {
            format: FORMAT,
            seed: demo.seed,
            items: demo.items,
            plans: demo.plans,
            creatives: demo.creatives,
            users: demo.users,
            long_users: demo.long_users,
            long_events: demo.long_events,
            made_at,
            whole,
        }
    }

    /// Writes it in one step: a crash leaves the old file or the new one.
    fn write(&self, path: &Path) -> anyhow::Result<()> {
        let draft = path.with_extension("json.tmp");
        std::fs::write(&draft, serde_json::to_vec_pretty(self)?)?;
        Ok(std::fs::rename(draft, path)?)
    }
}

const FORMAT: u32 = 3;

/// Makes the world in an empty data directory; one that holds a world is left as it is, one whose making was cut short is made
/// again.
///
/// # Errors
/// A directory with other data, or a disk fault.
pub async fn prepare(config: &Config, stores: &Stores, now: i64) -> anyhow::Result<()> {
    let path = config.data.dir.join("demo.json");
    let demo = &config.demo;
    if path.exists() {
        let marker: Marker = serde_json::from_slice(&std::fs::read(&path)?).with_context(|| {
            format!(
                "{} is damaged or of another version: remove {} to make a new world",
                path.display(),
                config.data.dir.display()
            )
        })?;
        if marker.whole {
            tracing::info!(
                items = marker.items,
                plans = marker.plans,
                users = marker.users,
                seed = marker.seed,
                "the demo world of this data directory is served as it is"
            );
            return Ok(());
        }
        // Records of another world would stay behind.
        if marker != Marker::of(demo, marker.made_at, false) {
            let dir = config.data.dir.display();
            bail!(
                "{dir} holds a half-made demo world with other settings: remove it, or choose an empty --data directory"
            );
        }
        tracing::info!("the demo world was left half made: making it again");
    }
    Marker::of(demo, now, false).write(&path)?;
    let began = Instant::now();
    tracing::info!(
        items = demo.items,
        plans = demo.plans,
        users = demo.users,
        seed = demo.seed,
        "making the demo world"
    );
    let taxonomy = Taxonomy::new();
    let items = items(&taxonomy, demo.items);
    install_model(config)?;
    records(stores, CatalogKind::Item, items.iter().map(|item| (&item.id, item))).await?;
    let plans = plans(&items, demo, now);
    records(stores, CatalogKind::Plan, plans.iter().map(|plan| (&plan.id, plan))).await?;
    let creatives = creatives(&plans, demo);
    records(stores, CatalogKind::Creative, creatives.iter().map(|one| (&one.id, one))).await?;
    let market = Market::new(&taxonomy, &items);
    let events = histories(stores, &market, demo, now).await?;
    Marker::of(demo, now, true).write(&path)?;
    tracing::info!(events, seconds = began.elapsed().as_secs_f32(), "the demo world is made");
    Ok(())
}

/// Refuses a directory in which the making of a world was cut short: what is there looks like a whole catalogue.
///
/// # Errors
/// It is half made, and what to do.
pub fn expect_whole(config: &Config) -> anyhow::Result<()> {
    let dir = &config.data.dir;
    let Ok(json) = std::fs::read(dir.join("demo.json")) else { return Ok(()) };
    let half = serde_json::from_slice::<serde_json::Value>(&json).is_ok_and(|marker| marker["whole"] == false);
    if half {
        bail!("{0} holds a half-made demo world: `longbow demo --data {0}` makes it whole", dir.display());
    }
    Ok(())
}

/// Rates of the demo world, for requests in other currencies; a real server is given its own (`currencies.rates`).
const RATES: [(&str, f64); 10] = [
    ("EUR", 1.08),
    ("GBP", 1.27),
    ("CHF", 1.12),
    ("JPY", 0.0067),
    ("CNY", 0.14),
    ("PLN", 0.25),
    ("AUD", 0.65),
    ("CAD", 0.73),
    ("INR", 0.012),
    ("BRL", 0.18),
];

/// Sets the demo's exchange rates unless some are configured.
pub fn fill_rates(config: &mut Config) {
    if config.currencies.rates.is_empty() {
        config.currencies.rates = RATES.iter().map(|&(code, rate)| (code.to_owned(), rate)).collect();
    }
}

/// The bundle that `scripts/train` made of this world (docs/training.md has the command).
const MANIFEST: &[u8] = include_bytes!("../assets/demo-bundle/bundle.json");
const MODEL: &[u8] = include_bytes!("../assets/demo-bundle/model.safetensors");
const SELF_CHECK: &[u8] = include_bytes!("../assets/demo-bundle/self-check.safetensors");

/// Puts the demo's model where the server looks for models.
///
/// # Errors
/// Another bundle of that name, or a disk fault.
fn install_model(config: &Config) -> anyhow::Result<()> {
    let models = models_dir(config);
    bundle::install(models.join("demo"), MANIFEST, MODEL, Some(SELF_CHECK))
        .with_context(|| format!("put the demo's model into {}", models.display()))?;
    Ok(())
}

async fn records<'a, T: Serialize + 'a>(
    stores: &Stores,
    kind: CatalogKind,
    records: impl Iterator<Item = (&'a Id, &'a T)>,
) -> anyhow::Result<()> {
    let mut batch = Vec::with_capacity(RECORDS_TOGETHER);
    let mut written = 0;
    for (id, record) in records {
        batch.push(CatalogRecord { kind, id: id.clone(), json: serde_json::to_vec(record)? });
        if batch.len() == RECORDS_TOGETHER {
            written += batch.len();
            stores.records.put_many(std::mem::take(&mut batch)).await?;
            tracing::info!(?kind, written, "records");
        }
    }
    if !batch.is_empty() {
        written += batch.len();
        stores.records.put_many(batch).await?;
        tracing::info!(?kind, written, "records");
    }
    Ok(())
}

/// Imports every user's history and tells how far it is.
async fn histories(stores: &Stores, market: &Market, demo: &config::Demo, now: i64) -> anyhow::Result<usize> {
    let (mut events, mut told) = (0, Instant::now());
    let mut batch = Vec::with_capacity(USERS_TOGETHER);
    for number in 1..=demo.users {
        let history = history(market, &UserPlan::of(number, demo), now);
        events += history.len();
        batch.push((Id::from(&*user_id(number)), history));
        if batch.len() == USERS_TOGETHER || number == demo.users {
            stores.users.import(std::mem::take(&mut batch)).await?;
            if told.elapsed().as_secs() >= 1 || number == demo.users {
                told = Instant::now();
                tracing::info!(users = number, of = demo.users, events, "histories");
            }
        }
    }
    Ok(events)
}

/// Id of user `number`, from 1.
#[must_use]
pub fn user_id(number: usize) -> String {
    format!("user-{number:05}")
}
