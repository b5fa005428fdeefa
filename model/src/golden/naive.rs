//! The plain computation in bf16: one operation after another, each result rounded, or those that [`Rounds`] names. It says
//! how far bf16 itself strays, so that encoders are held to that and not to a number of our own.

use longbow_kernels::{BUCKETS, from_bf16, time_bucket, to_bf16};

use crate::items::ItemTable;
use crate::model::Model;
use crate::spec;
use crate::window::Window;

/// What is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rounds {
    /// Every result.
    Everything,
    /// K and V, which are kept in bf16, and what is multiplied with them: queries and weights. Sums are in f32.
    Products,
    /// K and V, which are kept in bf16 and widened again.
    States,
}

fn to_nearest(x: f32) -> f32 {
    from_bf16(to_bf16(x))
}

/// K and V of one layer, a row for each event.
struct Kept {
    k: Vec<Vec<f32>>,
    v: Vec<Vec<f32>>,
}

/// A history in bf16: rows of the last layer, and K/V for its candidates.
pub(super) struct Naive<'a> {
    model: &'a Model,
    rounds: Rounds,
    layers: Vec<Kept>,
    times: Vec<i64>,
    query_time: i64,
    /// `[n, D]`.
    pub(super) rows: Vec<f32>,
}

impl<'a> Naive<'a> {
    pub(super) fn new(
        (model, rounds): (&'a Model, Rounds),
        window: &Window<'_>,
        items: &ItemTable,
        query_time: i64,
    ) -> Self {
        let count = model.config().num_blocks;
        let layers = (0..count).map(|_| Kept { k: Vec::new(), v: Vec::new() }).collect();
        let mut naive = Self { model, rounds, layers, times: Vec::new(), query_time, rows: Vec::new() };
        for i in 0..window.len() {
            let next = window.times.get(i + 1).copied().unwrap_or(query_time);
            let row = naive.row(
                items.row(window.items[i]).unwrap_or_default(),
                window.actions[i],
                i,
                (window.times[i], next),
            );
            naive.rows.extend_from_slice(&row);
        }
        naive
    }

    /// The last layer's row of a candidate.
    pub(super) fn candidate(&mut self, item: &[f32]) -> Vec<f32> {
        let position = self.times.len();
        let row = self.row(item, 0, position, (self.query_time, self.query_time));
        self.times.pop();
        for kept in &mut self.layers {
            kept.k.pop();
            kept.v.pop();
        }
        row
    }

    #[expect(clippy::cast_precision_loss, reason = "widths are far below 2^24")]
    fn row(&mut self, item: &[f32], action: u16, position: usize, (time, next): (i64, i64)) -> Vec<f32> {
        let config = self.model.config();
        let d = config.embedding_dim;
        let mut x = item.to_vec();
        if config.action_embedding_dim > 0 {
            let first = usize::from(action) * config.action_embedding_dim;
            x.extend_from_slice(&self.model.weight(spec::ACTION_EMB).data[first..first + config.action_embedding_dim]);
        }
        let scale = self.round((d as f32).sqrt());
        let place = &self.model.weight(spec::POS_EMB).data[position * d..(position + 1) * d];
        x.iter_mut().zip(place).for_each(|(x, p)| *x = self.round(self.round(self.round(*x) * scale) + self.round(*p)));
        self.times.push(time);
        for layer in 0..self.layers.len() {
            x = self.layer(layer, &x, (position, next));
        }
        x
    }

    fn layer(&mut self, layer: usize, x: &[f32], (position, next): (usize, i64)) -> Vec<f32> {
        let config = self.model.config();
        let data = |part: &str| &self.model.weight(&spec::layer(layer, part)).data;
        let (w, columns, v_width, k_width) = (data("_uvqk"), config.uvqk_width(), config.v_width(), config.k_width());
        let normed = self.norm(x, config.epsilon);
        let mut uvqk = vec![0.0; columns];
        for (row, x) in w.chunks_exact(columns).zip(&normed) {
            uvqk.iter_mut().zip(row).for_each(|(sum, w)| *sum += self.round(*w) * x);
        }
        uvqk.iter_mut().for_each(|x| *x = self.silu(self.round(*x)));
        let (u, rest) = uvqk.split_at(v_width);
        let (v, rest) = rest.split_at(v_width);
        let (q, k) = rest.split_at(k_width);
        self.layers[layer].k.push(k.iter().copied().map(to_nearest).collect());
        self.layers[layer].v.push(v.iter().copied().map(to_nearest).collect());
        let q: Vec<f32> = q.iter().map(|x| self.factor(*x)).collect();
        let a = self.attention(layer, &q, (position, next));
        let gated: Vec<f32> = self.norm(&a, config.epsilon).iter().zip(u).map(|(a, u)| self.round(a * u)).collect();
        let (o, bias) = (data("_o.weight"), data("_o.bias"));
        x.iter()
            .enumerate()
            .map(|(i, x)| {
                let sum: f32 =
                    o[i * v_width..(i + 1) * v_width].iter().zip(&gated).map(|(w, g)| self.round(*w) * g).sum();
                self.round(x + self.round(self.round(sum) + self.round(bias[i])))
            })
            .collect()
    }

    #[expect(clippy::cast_precision_loss, reason = "N is far below 2^24")]
    fn attention(&self, layer: usize, q: &[f32], (position, next): (usize, i64)) -> Vec<f32> {
        let config = self.model.config();
        let data = |part: &str| &self.model.weight(&spec::layer(layer, part)).data;
        let (pos_w, ts_w) = (data("_rel_attn_bias._pos_w"), data("_rel_attn_bias._ts_w"));
        let (dk, dv, max_len) = (config.attention_dim, config.linear_dim, config.max_len());
        let mut a = vec![0.0; config.v_width()];
        let kept = &self.layers[layer];
        for (j, (k, v)) in kept.k.iter().zip(&kept.v).enumerate() {
            let bucket = time_bucket(next - self.times[j]).min(BUCKETS).min(ts_w.len() - 1);
            let bias = self.round(self.round(pos_w[max_len - 1 + j - position]) + self.round(ts_w[bucket]));
            for h in 0..config.num_heads {
                let dot: f32 = q[h * dk..(h + 1) * dk].iter().zip(&k[h * dk..(h + 1) * dk]).map(|(q, k)| q * k).sum();
                let weight = self.factor(self.silu(self.round(self.round(dot) + bias)) / max_len as f32);
                let (a, v) = (&mut a[h * dv..(h + 1) * dv], &v[h * dv..(h + 1) * dv]);
                a.iter_mut().zip(v).for_each(|(a, v)| *a += weight * v);
            }
        }
        a.iter().map(|x| self.round(*x)).collect()
    }

    fn round(&self, x: f32) -> f32 {
        if self.rounds == Rounds::Everything { to_nearest(x) } else { x }
    }

    /// What is multiplied with K or V.
    fn factor(&self, x: f32) -> f32 {
        if self.rounds == Rounds::States { x } else { to_nearest(x) }
    }

    fn silu(&self, x: f32) -> f32 {
        self.round(x / (1.0 + (-x).exp()))
    }

    /// The layer norm, its result rounded.
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "widths are far below 2^24")]
    fn norm(&self, x: &[f32], epsilon: f64) -> Vec<f32> {
        let n = x.len() as f32;
        let mean = x.iter().sum::<f32>() / n;
        let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n;
        let factor = 1.0 / (variance + epsilon as f32).sqrt();
        x.iter().map(|x| self.round((x - mean) * factor)).collect()
    }
}
