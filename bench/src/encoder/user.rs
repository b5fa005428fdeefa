//! A seeded model and one user of it with a long history.

use std::sync::Arc;

use longbow_model::{Config, ItemTable, Model, Seed, Window};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::EncoderArgs;

/// Items of the table.
const ITEMS: u32 = 10_000;
/// Width of the action part of a row.
const ACTION_DIM: usize = 16;
/// Actions that events carry.
const ACTIONS: u16 = 8;

/// The user, and the model that reads it.
pub(super) struct User {
    model: Arc<Model>,
    items: ItemTable,
    slots: Vec<u32>,
    actions: Vec<u16>,
    times: Vec<i64>,
    candidates: Vec<u32>,
}

impl User {
    /// A user of `events` events in sessions.
    pub(super) fn new(args: &EncoderArgs, events: usize) -> anyhow::Result<Self> {
        let config = Config {
            max_sequence_len: events.next_multiple_of(64),
            max_output_len: 16,
            embedding_dim: args.width as usize,
            item_embedding_dim: args.width as usize - ACTION_DIM,
            action_embedding_dim: ACTION_DIM,
            num_actions: usize::from(ACTIONS),
            num_blocks: args.layers as usize,
            num_heads: args.heads as usize,
            attention_dim: args.dim as usize,
            linear_dim: args.dim as usize,
            num_items: ITEMS as usize,
            num_tasks: 3,
            num_time_buckets: 128,
            normalization: "rel_bias".to_owned(),
            linear_activation: "silu".to_owned(),
            concat_ua: false,
            epsilon: 1e-6,
        };
        let model = Arc::new(Model::seeded(config, &Seed { seed: 5, content_dim: None, head_hidden: 32 })?);
        let items = ItemTable::new(&model);
        let mut rng = StdRng::seed_from_u64(11);
        let mut now = 1_600_000_000_i64;
        let mut time = |rng: &mut StdRng| {
            now += if rng.random_bool(0.05) { rng.random_range(0..72_000) } else { rng.random_range(0..120) };
            now
        };
        Ok(Self {
            model,
            items,
            slots: (0..events).map(|_| rng.random_range(1..=ITEMS)).collect(),
            actions: (0..events).map(|_| rng.random_range(1..ACTIONS)).collect(),
            times: (0..=events).map(|_| time(&mut rng)).collect(),
            candidates: (0..args.candidates).map(|i| i * 17 % ITEMS + 1).collect(),
        })
    }

    pub(super) fn model(&self) -> &Arc<Model> {
        &self.model
    }

    pub(super) fn items(&self) -> &ItemTable {
        &self.items
    }

    pub(super) fn candidates(&self) -> &[u32] {
        &self.candidates
    }

    /// The first `n` events.
    pub(super) fn window(&self, n: usize) -> Window<'_> {
        Window { items: &self.slots[..n], actions: &self.actions[..n], times: &self.times[..n] }
    }

    /// The time of a request after `n` events.
    pub(super) fn time_after(&self, n: usize) -> i64 {
        self.times[n]
    }
}
