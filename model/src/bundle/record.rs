//! Writes a bundle whose self-check is recorded from the reference encoder.

use std::path::Path;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use safetensors::tensor::{Dtype, TensorView};
use sha2::{Digest, Sha256};

use super::place::place;
use super::{BundleError, Calibration, FORMAT, Features, MANIFEST, MODEL, Manifest, SELF_CHECK, hashes};
use crate::items::{ItemTable, l2_normalise};
use crate::load::LoadError;
use crate::model::{Model, Version};
use crate::reference::ReferenceEncoder;
use crate::window::Window;

/// Events of the longest recorded history at most.
const EVENTS_MAX: usize = 256;
/// Candidates of each recorded history.
const CANDIDATES: usize = 8;
/// Recorded content vectors.
const CONTENTS: usize = 8;
/// Time of the first recorded event, Unix seconds.
const FIRST_TIME: i64 = 1_700_000_000;

/// What a bundle says of itself.
#[derive(Debug, Clone)]
pub struct About {
    /// Name of the model.
    pub name: String,
    /// The command that made it.
    pub made_by: String,
    /// When, as in `2026-11-24T12:00:00Z`.
    pub created: String,
    /// What it reads and predicts.
    pub features: Features,
    /// Calibration of its tasks.
    pub calibration: Vec<Calibration>,
    /// Figures of the training.
    pub training: serde_json::Value,
}

/// Writes `model` (uncalibrated) as a bundle to `dir`, which must not exist. The self-check holds seeded histories, candidates
/// and content vectors with what [`ReferenceEncoder`] computes for them. Gives the version that the bundle is served under.
///
/// # Errors
/// [`BundleError::Manifest`] where `about` does not fit the model, [`BundleError::Exists`], [`BundleError::Io`].
pub fn write(dir: impl AsRef<Path>, model: &Model, about: &About, seed: u64) -> Result<Version, BundleError> {
    let dir = dir.as_ref();
    if dir.exists() {
        return Err(BundleError::Exists(dir.to_owned()));
    }
    let About { name, made_by, created, features, calibration, training } = about.clone();
    let sha256 = hashes(&[]);
    let mut manifest = Manifest { format: FORMAT, name, made_by, created, features, calibration, sha256, training };
    manifest.check_model(model)?;
    let bytes = model.to_bytes().map_err(|cause| BundleError::Load { file: MODEL, cause })?;
    let mut hasher = Sha256::new().chain_update(&bytes);
    manifest.write_served(&mut hasher);
    let version = Version(hasher.finalize().into());
    let recorded = record(&model.calibrated(&manifest.scales(), version), seed)?;
    manifest.sha256 = hashes(&[(MODEL, &bytes), (SELF_CHECK, &recorded)]);
    let json = serde_json::to_vec_pretty(&manifest).map_err(|e| BundleError::manifest("the file", e.to_string()))?;
    // What is written must be readable again.
    Manifest::parse(&json)?;
    place(dir, &[(MANIFEST, &json), (MODEL, &bytes), (SELF_CHECK, &recorded)])?;
    Ok(version)
}

/// Tensors of a self-check while they are made.
#[derive(Default)]
struct Tensors(Vec<(&'static str, Dtype, Vec<usize>, Vec<u8>)>);

impl Tensors {
    fn integers(&mut self, name: &'static str, shape: &[usize], data: &[i64]) {
        self.0.push((name, Dtype::I64, shape.to_vec(), data.iter().flat_map(|x| x.to_le_bytes()).collect()));
    }

    fn floats(&mut self, name: &'static str, shape: &[usize], data: &[f32]) {
        self.0.push((name, Dtype::F32, shape.to_vec(), data.iter().flat_map(|x| x.to_le_bytes()).collect()));
    }

    fn to_bytes(&self) -> Result<Vec<u8>, BundleError> {
        let damaged = |reason: String| BundleError::Load { file: SELF_CHECK, cause: LoadError::Header { reason } };
        let mut views = Vec::with_capacity(self.0.len());
        for (name, dtype, shape, bytes) in &self.0 {
            let view = TensorView::new(*dtype, shape.clone(), bytes).map_err(|e| damaged(e.to_string()))?;
            views.push((format!("golden.{name}"), view));
        }
        safetensors::serialize(views, None).map_err(|e| damaged(e.to_string()))
    }
}

/// One seeded history.
struct User {
    items: Vec<u32>,
    actions: Vec<u16>,
    times: Vec<i64>,
    query_time: i64,
    candidates: Vec<u32>,
}

impl User {
    fn draw(rng: &mut StdRng, len: usize, model: &Model) -> Self {
        let config = model.config();
        let items = u32::try_from(config.num_items).unwrap_or(u32::MAX);
        let actions = u16::try_from(config.num_actions).unwrap_or(u16::MAX).max(2);
        let mut time = FIRST_TIME;
        let times = (0..len).map(|_| {
            let scale = [0, 100, 100_000][rng.random_range(0..3_usize)];
            time += rng.random_range(0..=scale);
            time
        });
        let times: Vec<i64> = times.collect();
        Self {
            items: (0..len).map(|_| rng.random_range(1..=items)).collect(),
            actions: (0..len).map(|_| rng.random_range(1..actions)).collect(),
            query_time: time + rng.random_range(1..10_000),
            candidates: (0..CANDIDATES).map(|_| rng.random_range(1..=items)).collect(),
            times,
        }
    }

    fn window(&self) -> Window<'_> {
        Window { items: &self.items, actions: &self.actions, times: &self.times }
    }
}

/// `rows` padded with zeros to `len` numbers.
fn padded<T: Default + Clone>(rows: impl IntoIterator<Item = T>, len: usize) -> Vec<T> {
    let mut rows: Vec<T> = rows.into_iter().collect();
    rows.resize(len, T::default());
    rows
}

/// The self-check of a calibrated model.
fn record(model: &Model, seed: u64) -> Result<Vec<u8>, BundleError> {
    let config = model.config();
    if config.num_items == 0 {
        let reason = "a model without items of its own cannot be checked: histories are made of them";
        return Err(BundleError::manifest("num_items", reason));
    }
    let mut rng = StdRng::seed_from_u64(seed);
    let longest = config.max_sequence_len.min(EVENTS_MAX);
    let mut lengths = vec![1, 2.min(longest), longest.div_ceil(2), longest];
    lengths.dedup();
    let users: Vec<User> = lengths.iter().map(|&len| User::draw(&mut rng, len, model)).collect();
    let (b, n, dim) = (users.len(), longest, config.item_embedding_dim);
    let integers =
        |of: &dyn Fn(&User) -> Vec<i64>| users.iter().flat_map(|user| padded(of(user), n)).collect::<Vec<_>>();
    let mut tensors = Tensors::default();
    tensors.integers("item_ids", &[b, n], &integers(&|user| user.items.iter().map(|&x| i64::from(x)).collect()));
    tensors.integers("actions", &[b, n], &integers(&|user| user.actions.iter().map(|&x| i64::from(x)).collect()));
    tensors.integers("timestamps", &[b, n], &integers(&|user| user.times.clone()));
    let lengths: Vec<i64> = lengths.iter().map(|&len| i64::try_from(len).unwrap_or(i64::MAX)).collect();
    tensors.integers("lengths", &[b], &lengths);
    tensors.integers("query_time", &[b], &users.iter().map(|user| user.query_time).collect::<Vec<_>>());
    let candidates: Vec<i64> = users.iter().flat_map(|user| &user.candidates).map(|&x| i64::from(x)).collect();
    tensors.integers("candidate_ids", &[b, CANDIDATES], &candidates);

    let (encoder, items) = (ReferenceEncoder::new(model)?, ItemTable::new(model));
    let (mut output, mut probs) = (Vec::new(), Vec::new());
    #[expect(clippy::cast_possible_truncation, reason = "an epsilon of 1e-6 needs no more than f32")]
    let epsilon = config.epsilon as f32;
    for user in &users {
        let history = encoder.history(user.window(), &items, user.query_time)?;
        let mut rows = Vec::with_capacity(n * dim);
        for row in history.rows()?.chunks_exact(config.embedding_dim) {
            let mut row = row[..dim].to_vec();
            l2_normalise(&mut row, epsilon);
            rows.extend(row);
        }
        output.extend(padded(rows, n * dim));
        if config.num_tasks > 0 {
            let rows = encoder.candidate_rows(&history, &items, &user.candidates)?;
            probs.extend(encoder.probabilities(&rows, &items, &user.candidates)?);
        }
    }
    tensors.floats("output", &[b, n, dim], &output);
    if config.num_tasks > 0 {
        tensors.floats("candidate_probs", &[b, CANDIDATES, config.num_tasks], &probs);
    }
    if model.tensor(crate::spec::CONTENT_PROJ).is_some() {
        record_content(&mut tensors, &mut rng, &items);
    }
    tensors.to_bytes()
}

/// Content vectors and their embeddings.
fn record_content(tensors: &mut Tensors, rng: &mut StdRng, items: &ItemTable) {
    let width = items.content_dim();
    let vectors: Vec<f32> = (0..CONTENTS * width).map(|_| rng.random_range(-1.0..1.0)).collect();
    let rows: Vec<f32> =
        vectors.chunks_exact(width).flat_map(|vector| items.embed(vector).unwrap_or_default()).collect();
    tensors.floats("content", &[CONTENTS, width], &vectors);
    tensors.floats("content_rows", &[CONTENTS, items.dim()], &rows);
}
