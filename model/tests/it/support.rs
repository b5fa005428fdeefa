//! Small models, random histories and golden-form files of our own.

use std::collections::BTreeMap;
use std::sync::Arc;

use longbow_kernels::Engine;
use longbow_model::{
    Config, CpuEncoder, ItemTable, Model, ReferenceEncoder, Seed, StuConfig, Window, load::HEADER_BYTES_MAX, spec,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use safetensors::tensor::{Dtype, TensorView};

/// A small configuration: action part, three tasks, `d_qk` != `d_v`, widths that are no multiple of 16.
pub(crate) fn config(max_sequence_len: usize) -> Config {
    Config {
        max_sequence_len,
        max_output_len: 2,
        embedding_dim: 26,
        item_embedding_dim: 18,
        action_embedding_dim: 8,
        num_actions: 8,
        num_blocks: 2,
        num_heads: 2,
        attention_dim: 9,
        linear_dim: 12,
        num_items: 60,
        num_time_buckets: 128,
        normalization: "rel_bias".to_owned(),
        linear_activation: "silu".to_owned(),
        concat_ua: false,
        epsilon: 1e-6,
        num_tasks: 3,
    }
}

pub(crate) fn model(config: Config, seed: u64) -> Arc<Model> {
    let seed = Seed { seed, content_dim: Some(10), head_hidden: 20 };
    Arc::new(Model::seeded(config, &seed).unwrap())
}

pub(crate) fn encoder(model: &Arc<Model>, threads: usize) -> CpuEncoder {
    CpuEncoder::new(Arc::clone(model), Arc::new(Engine::new(threads, None).unwrap()))
}

/// Events of a user, all of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Events {
    pub(crate) items: Vec<u32>,
    pub(crate) actions: Vec<u16>,
    pub(crate) times: Vec<i64>,
}

impl Events {
    pub(crate) fn random(rng: &mut StdRng, count: usize, rows: usize) -> Self {
        let mut events = Self::default();
        events.append(rng, count, rows);
        events
    }

    /// Adds `count` events of items `1..rows`; a third of them at the time of the one before.
    pub(crate) fn append(&mut self, rng: &mut StdRng, count: usize, rows: usize) {
        let mut time = self.times.last().copied().unwrap_or(1_700_000_000);
        for _ in 0..count {
            let scale = [0, 100, 100_000][rng.random_range(0..3)];
            time += rng.random_range(0..=scale);
            self.items.push(u32::try_from(rng.random_range(1..rows)).unwrap());
            self.actions.push(rng.random_range(1..8));
            self.times.push(time);
        }
    }

    pub(crate) fn window(&self) -> Window<'_> {
        self.from(0)
    }

    pub(crate) fn from(&self, start: usize) -> Window<'_> {
        Window { items: &self.items[start..], actions: &self.actions[start..], times: &self.times[start..] }
    }
}

/// Largest relative error of a row of `width` numbers.
pub(crate) fn row_error(found: &[f32], wanted: &[f32], width: usize) -> f64 {
    assert_eq!(found.len(), wanted.len());
    let norm = |row: &mut dyn Iterator<Item = f64>| row.map(|x| x * x).sum::<f64>().sqrt();
    let mut worst = 0.0;
    for (f, w) in found.chunks(width).zip(wanted.chunks(width)) {
        let difference = norm(&mut f.iter().zip(w).map(|(f, w)| f64::from(*f) - f64::from(*w)));
        let error = difference / norm(&mut w.iter().map(|x| f64::from(*x)));
        assert!(error.is_finite());
        worst = f64::max(worst, error);
    }
    worst
}

/// One tensor of a file to be written.
pub(crate) type Raw = (Dtype, Vec<usize>, Vec<u8>);

pub(crate) fn f32s(shape: &[usize], data: &[f32]) -> Raw {
    (Dtype::F32, shape.to_vec(), data.iter().flat_map(|x| x.to_le_bytes()).collect())
}

pub(crate) fn i64s(shape: &[usize], data: &[i64]) -> Raw {
    (Dtype::I64, shape.to_vec(), data.iter().flat_map(|x| x.to_le_bytes()).collect())
}

pub(crate) fn i32s(shape: &[usize], data: impl IntoIterator<Item = i32>) -> Raw {
    (Dtype::I32, shape.to_vec(), data.into_iter().flat_map(i32::to_le_bytes).collect())
}

/// A safetensors file by the public crate.
pub(crate) fn file(config: &str, tensors: &BTreeMap<String, Raw>) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    let metadata = std::collections::HashMap::from([("config".to_owned(), config.to_owned())]);
    let bytes = safetensors::serialize(views, Some(metadata)).unwrap();
    assert!(bytes.len() > 8 && HEADER_BYTES_MAX > 0);
    bytes
}

/// Tensors of a model file.
pub(crate) fn weights(model: &Model) -> BTreeMap<String, Raw> {
    let expected = spec::rel_bias(model.config(), model.head_hidden(), Some(model.content_dim()));
    let raw = |name: &str| model.tensor(name).map(|t| f32s(&t.shape, &t.data));
    expected.into_iter().filter_map(|x| raw(&x.name).map(|t| (x.name, t))).collect()
}

/// A golden-form file of our own: a seeded model, random histories, and outputs by the reference encoder.
pub(crate) fn golden(config: Config, seed: u64) -> (String, BTreeMap<String, Raw>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let model = model(config.clone(), seed);
    let (items, reference) = (ItemTable::new(&model), ReferenceEncoder::new(&model).unwrap());
    let lengths = [1, 2, config.max_sequence_len / 2, config.max_sequence_len];
    let (n, dim, d, tasks) = (config.max_len(), config.item_embedding_dim, config.embedding_dim, config.num_tasks);
    let (mut ids, mut actions, mut times) = (vec![0; 4 * n], vec![0; 4 * n], vec![0; 4 * n]);
    let (mut output, mut queries) = (vec![0.0; 4 * n * dim], Vec::new());
    let (mut rows, mut probs) = (Vec::new(), Vec::new());
    let candidates = [1, 7, 30];
    for (b, &len) in lengths.iter().enumerate() {
        let events = Events::random(&mut rng, len, items.rows());
        let query_time = events.times[len - 1] + 777;
        for i in 0..len {
            ids[b * n + i] = events.items[i].cast_signed();
            actions[b * n + i] = i32::from(events.actions[i]);
            times[b * n + i] = events.times[i];
        }
        let history = reference.history(events.window(), &items, query_time).unwrap();
        for (i, row) in history.rows().unwrap().chunks(d).enumerate() {
            let norm = row[..dim].iter().map(|x| x * x).sum::<f32>().sqrt();
            let to = (b * n + i) * dim;
            output[to..to + dim].iter_mut().zip(row).for_each(|(o, x)| *o = x / norm);
        }
        let new = reference.candidate_rows(&history, &items, &candidates).unwrap();
        probs.extend(reference.probabilities(&new, &items, &candidates).unwrap());
        rows.extend(new);
        queries.push(query_time);
    }
    let mut tensors = weights(&model);
    let mut add = |name: &str, raw: Raw| tensors.insert(format!("golden.{name}"), raw);
    add("item_ids", i32s(&[4, n], ids));
    add("actions", i32s(&[4, n], actions));
    add("timestamps", i64s(&[4, n], &times));
    add("lengths", i32s(&[4], lengths.map(|len| i32::try_from(len).unwrap())));
    add("query_time", i64s(&[4], &queries));
    add("output", f32s(&[4, n, dim], &output));
    add("candidate_ids", i32s(&[4, 3], candidates.map(u32::cast_signed).repeat(4)));
    add("candidate_rows", f32s(&[4, 3, d], &rows));
    add("candidate_probs", f32s(&[4, 3, tasks], &probs));
    (serde_json::to_string(&config).unwrap(), tensors)
}

/// An `stu` file of random weights and rows, `golden.output_rows` being zero.
pub(crate) fn stu(config: &StuConfig, seed: u64) -> (String, BTreeMap<String, Raw>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut random = |shape: &[usize], scale: f32| {
        let data: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-scale..scale)).collect();
        f32s(shape, &data)
    };
    let mut tensors: BTreeMap<String, Raw> =
        spec::stu(config).into_iter().map(|x| (x.name, random(&x.shape, 0.5))).collect();
    let shape = [config.rows(), config.embedding_dim];
    tensors.insert("golden.input_rows".to_owned(), random(&shape, 1.0));
    tensors.insert("golden.output_rows".to_owned(), f32s(&shape, &vec![0.0; shape[0] * shape[1]]));
    (serde_json::to_string(config).unwrap(), tensors)
}

/// Writes bytes to a new file in `folder`.
pub(crate) fn written(folder: &tempfile::TempDir, bytes: &[u8]) -> std::path::PathBuf {
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, bytes).unwrap();
    path
}
