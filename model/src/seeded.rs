//! Seeded demonstration weights: untrained, but of such scale that retrieval and scores differ by user and by
//! item and that probabilities have the size they have in advertising.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;

use crate::config::Config;
use crate::load::{LoadError, Tensor};
use crate::model::Model;
use crate::spec;

/// What a seeded model is made from, beside its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed {
    /// Seed of every random number.
    pub seed: u64,
    /// Width of the content vectors that new items bring; nothing where they bring an embedding.
    pub content_dim: Option<usize>,
    /// Width of the heads' hidden layer.
    pub head_hidden: usize,
}

/// Mean and spread (in log-odds) of each task: click, conversion given a click, value. Further tasks are as the
/// last.
const TASKS: [(f64, f64); 3] = [(0.018, 0.45), (0.06, 0.45), (0.5, 0.5)];
/// Pairs of row and item that the heads' scale is measured on.
const SAMPLES: usize = 512;
/// Values of u, v, q, k before their SiLU: large enough that the attention adds a good part to each row.
const PROJECTION_GAIN: f64 = 2.0;
/// About what a layer adds to the variance of a row's numbers: the mean square of silu(2 x) for normal x.
const LAYER_VARIANCE: f64 = 1.5;

struct Weights {
    rng: StdRng,
    tensors: BTreeMap<String, Tensor>,
}

impl Weights {
    fn normal(&mut self) -> f64 {
        self.rng.sample(StandardNormal)
    }

    /// Adds a tensor of which element `i` is `of(i, standard normal)`.
    #[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
    fn add(&mut self, name: impl Into<String>, shape: &[usize], of: impl Fn(usize, f64) -> f64) {
        let data = (0..shape.iter().product()).map(|i| of(i, self.normal()) as f32).collect();
        self.tensors.insert(name.into(), Tensor { shape: shape.to_vec(), data });
    }
}

#[expect(clippy::cast_precision_loss, reason = "widths are far below 2^52")]
fn real(n: usize) -> f64 {
    n as f64
}

impl Model {
    /// Untrained weights from a seed: equal seeds and configurations give equal models, byte for byte.
    ///
    /// Item embeddings have a length of about 1 (and so have embeddings of content vectors of length 1). Tasks
    /// are taken as click, conversion given a click and value: their probabilities average about 1.8%, 6% and
    /// 0.5 and spread by a factor of about 1.6 over users and items.
    ///
    /// # Errors
    /// [`LoadError::Config`] where the configuration does not hold.
    pub fn seeded(config: Config, seed: &Seed) -> Result<Self, LoadError> {
        config.validate()?;
        let mut w = Weights { rng: StdRng::seed_from_u64(seed.seed), tensors: BTreeMap::new() };
        let (d, item, n) = (config.embedding_dim, config.item_embedding_dim, config.max_len());
        let unit = 1.0 / real(item).sqrt();
        w.add(spec::ITEM_EMB, &[config.num_items + 1, item], |i, x| if i < item { 0.0 } else { x * unit });
        w.add(spec::POS_EMB, &[n, d], |_, x| 0.1 * x);
        if config.action_embedding_dim > 0 {
            let width = config.action_embedding_dim;
            w.add(spec::ACTION_EMB, &[config.num_actions, width], |_, x| x * unit);
        }
        if let Some(content) = seed.content_dim {
            w.add(spec::CONTENT_PROJ, &[item, content], |_, x| x * unit);
        }
        for at in 0..config.num_blocks {
            seed_layer(&mut w, &config, at);
        }
        if config.num_tasks > 0 {
            seed_heads(&mut w, &config, seed.head_hidden.max(1));
        }
        Self::from_parts(config, w.tensors)
    }
}

fn seed_layer(w: &mut Weights, config: &Config, at: usize) {
    let (d, v, n) = (config.embedding_dim, config.v_width(), config.max_len());
    let gain = PROJECTION_GAIN / real(d).sqrt();
    w.add(spec::layer(at, "_uvqk"), &[d, config.uvqk_width()], |_, x| x * gain);
    // The attention's output goes through a norm, so that this scale holds for short and long histories.
    let gain = 1.0 / real(v).sqrt();
    w.add(spec::layer(at, "_o.weight"), &[d, v], |_, x| x * gain);
    w.add(spec::layer(at, "_o.bias"), &[d], |_, x| 0.02 * x);
    // Near positions and recent events weigh more, as in trained models.
    let near = |i: usize| 1.0 / (1.0 + real((n - 1).abs_diff(i)) / 32.0);
    w.add(spec::layer(at, "_rel_attn_bias._pos_w"), &[2 * n - 1], |i, x| near(i) + 0.1 * x);
    let buckets = config.num_time_buckets + 1;
    w.add(spec::layer(at, "_rel_attn_bias._ts_w"), &[buckets], |i, x| 1.0 - real(i) / 32.0 + 0.1 * x);
}

/// Random heads, then each task scaled and shifted to its mean and spread, as measured on rows like the
/// encoder's.
#[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
fn seed_heads(w: &mut Weights, config: &Config, hidden: usize) {
    let (item, tasks) = (config.item_embedding_dim, config.num_tasks);
    w.add(spec::HEAD_IN, &[hidden, item], |_, x| x);
    w.add(spec::HEAD_IN_BIAS, &[hidden], |_, x| 0.1 * x);
    w.add(spec::HEAD_NORM, &[hidden], |_, _| 1.0);
    w.add(spec::HEAD_NORM_BIAS, &[hidden], |_, _| 0.0);
    let input = w.tensors[spec::HEAD_IN].data.clone();
    let input_bias = w.tensors[spec::HEAD_IN_BIAS].data.clone();
    let unit = 1.0 / real(item).sqrt();
    // A candidate's row is its own embedding plus what the layers add: that share of it is not random to z.
    let embedding = real(config.embedding_dim) / real(item);
    let own = (embedding / (embedding + LAYER_VARIANCE * real(config.num_blocks))).sqrt();
    let rest = (1.0 - own * own).sqrt();
    let samples: Vec<Vec<f64>> = (0..SAMPLES)
        .map(|_| {
            // z = norm(row) * item_emb, an embedding of length 1.
            let z: Vec<f64> = (0..item)
                .map(|_| {
                    let e = w.normal();
                    (own * e + rest * w.normal()) * e * unit
                })
                .collect();
            let h = (0..hidden).map(|o| {
                let sum: f64 = (0..item).map(|i| f64::from(input[o * item + i]) * z[i]).sum();
                sum + f64::from(input_bias[o])
            });
            gate(&h.collect::<Vec<_>>())
        })
        .collect();
    let (mut output, mut output_bias) = (Vec::new(), Vec::new());
    for task in 0..tasks {
        let (mean, spread) = TASKS[task.min(TASKS.len() - 1)];
        let row: Vec<f64> = (0..hidden).map(|_| w.normal()).collect();
        let logits: Vec<f64> = samples.iter().map(|s| s.iter().zip(&row).map(|(a, b)| a * b).sum()).collect();
        let middle = logits.iter().sum::<f64>() / real(SAMPLES);
        let deviation = (logits.iter().map(|x| (x - middle).powi(2)).sum::<f64>() / real(SAMPLES)).sqrt();
        let scale = spread / deviation.max(1e-9);
        output.extend(row.iter().map(|x| (x * scale) as f32));
        output_bias.push(((mean / (1.0 - mean)).ln() - middle * scale) as f32);
    }
    w.tensors.insert(spec::HEAD_OUT.to_owned(), Tensor { shape: vec![tasks, hidden], data: output.into() });
    w.tensors.insert(spec::HEAD_OUT_BIAS.to_owned(), Tensor { shape: vec![tasks], data: output_bias.into() });
}

/// x * sigmoid(norm(x)).
fn gate(h: &[f64]) -> Vec<f64> {
    let mean = h.iter().sum::<f64>() / real(h.len());
    let variance = h.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / real(h.len());
    let factor = 1.0 / (variance + 1e-5).sqrt();
    h.iter().map(|x| x / (1.0 + (-(x - mean) * factor).exp())).collect()
}
