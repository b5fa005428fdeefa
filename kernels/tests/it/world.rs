//! Random sequences: owned data, views on it, and the comparison with the reference.

use std::ops::Range;
use std::sync::Arc;

use longbow_kernels::{
    BUCKETS, Bias, CandidateSeq, CausalSeq, Engine, Isa, KvBlock, KvFormat, KvPanels, MatrixMut, MatrixRef, Scoring,
    Shape,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Largest error against f64 that every kernel promises, as `error` measures it, for rows of up to 10,000 keys.
pub(crate) const ERROR_MAX: f64 = 1e-5;

/// A model's part of the input.
pub(crate) struct Tables {
    pub(crate) max_len: usize,
    pos_w: Vec<f32>,
    ts_w: Vec<f32>,
    bias: bool,
    alpha: f32,
}

impl Tables {
    pub(crate) fn new(max_len: usize, bias: bool, rng: &mut StdRng) -> Self {
        let pos_w = floats(2 * max_len - 1, 1.0, rng);
        let ts_w = floats(BUCKETS + 1, 1.5, rng);
        let alpha = if bias { 1.0 } else { 0.4 };
        Self { max_len, pos_w, ts_w, bias, alpha }
    }

    /// How `error` judges outputs of `shape`: against half of what one key adds, at least.
    pub(crate) fn yardstick(&self, shape: Shape) -> (usize, f64) {
        (shape.v_width(), 0.5 * f64::from(self.scoring().scale))
    }

    #[expect(clippy::cast_precision_loss, reason = "small lengths")]
    pub(crate) fn scoring(&self) -> Scoring<'_> {
        let bias = Bias { pos_w: &self.pos_w, ts_w: &self.ts_w, max_len: self.max_len };
        Scoring { bias: self.bias.then_some(bias), alpha: self.alpha, scale: 1.0 / self.max_len as f32 }
    }
}

/// How the times of a history run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Times {
    /// Seconds to days apart, never falling.
    Sorted,
    /// Whole bursts at the same second, then gaps of up to years.
    Bursts,
    /// Any order, some zeros, some far away (beyond 32 bits of difference), some extreme.
    Wild,
}

/// One user's rows. `q` holds a query for every key and some more for candidates.
pub(crate) struct User {
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
    pub(crate) times: Vec<i64>,
    pub(crate) query_time: i64,
    pub(crate) shape: Shape,
    pub(crate) keys: usize,
    /// Floats from row to row in `q`, `k` and `v`; wider than the row itself.
    pub(crate) stride: usize,
    pub(crate) cuts: Vec<usize>,
}

pub(crate) fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

pub(crate) fn floats(len: usize, size: f32, rng: &mut StdRng) -> Vec<f32> {
    (0..len).map(|_| rng.random_range(-size..size)).collect()
}

fn times(keys: usize, kind: Times, rng: &mut StdRng) -> Vec<i64> {
    let mut now = 1_600_000_000_i64;
    let step = |rng: &mut StdRng| match kind {
        Times::Sorted => 10_i64.pow(rng.random_range(0..5)) * rng.random_range(0..10),
        _ if rng.random_bool(0.9) => 0,
        _ => 10_i64.pow(rng.random_range(0..8)),
    };
    let mut list: Vec<i64> = (0..keys)
        .map(|_| {
            now += step(rng);
            now
        })
        .collect();
    if kind == Times::Wild {
        for t in &mut list {
            match rng.random_range(0..12) {
                0 => *t = 0,
                1 => *t = -*t,
                2 => *t *= 1000,
                3 => *t = i64::MAX,
                4 => *t = i64::MIN,
                5 => *t = rng.random_range(0..2_000_000_000),
                _ => {}
            }
        }
    }
    list
}

impl User {
    /// `keys` history rows and `extra` candidate rows behind them.
    #[expect(clippy::cast_precision_loss, reason = "small widths")]
    pub(crate) fn new(shape: Shape, keys: usize, extra: usize, kind: Times, rng: &mut StdRng) -> Self {
        let rows = keys + extra;
        let stride = shape.qk_width().max(shape.v_width()) + rng.random_range(0..5);
        let size = 1.5 / (shape.d_qk as f32).sqrt().max(1.0);
        let times = times(keys, kind, rng);
        let query_time = times.last().copied().unwrap_or(0).saturating_add(rng.random_range(0..100_000));
        let mut cuts: Vec<usize> = (0..rng.random_range(0..6)).map(|_| rng.random_range(0..=keys)).collect();
        cuts.extend([0, keys]);
        cuts.sort_unstable();
        Self {
            q: floats(rows * stride, size.max(0.3), rng),
            k: floats(rows * stride, size.max(0.3), rng),
            v: floats(rows * stride, 1.0, rng),
            times,
            query_time,
            shape,
            keys,
            stride,
            cuts,
        }
    }

    fn view<'a>(&self, data: &'a [f32], rows: Range<usize>, cols: usize) -> MatrixRef<'a> {
        if rows.is_empty() {
            return MatrixRef::empty(cols);
        }
        MatrixRef::new(&data[rows.start * self.stride..], rows.len(), cols, self.stride).expect("view")
    }

    /// The keys in panels, in blocks of uneven sizes, some of them empty.
    pub(crate) fn keep(&self, format: KvFormat) -> Kept<'_> {
        self.keep_in(&self.cuts, format)
    }

    /// The keys in one block.
    pub(crate) fn keep_whole(&self, format: KvFormat) -> Kept<'_> {
        self.keep_in(&[0, self.keys], format)
    }

    fn keep_in(&self, cuts: &[usize], format: KvFormat) -> Kept<'_> {
        let panels = |rows: Range<usize>| {
            let k = self.view(&self.k, rows.clone(), self.shape.qk_width());
            let v = self.view(&self.v, rows.clone(), self.shape.v_width());
            (KvPanels::from_rows(self.shape, format, k, v).expect("panels"), &self.times[rows])
        };
        Kept(cuts.windows(2).map(|w| panels(w[0]..w[1])).collect())
    }

    pub(crate) fn next_times(&self) -> Vec<i64> {
        self.times.iter().skip(1).copied().chain([self.query_time]).collect()
    }

    /// History rows from `first` on.
    pub(crate) fn causal<'a>(
        &'a self,
        first: usize,
        next_times: &'a [i64],
        kv: &'a [KvBlock<'a>],
        out: &'a mut [f32],
    ) -> CausalSeq<'a> {
        let rows = self.keys - first;
        CausalSeq {
            q: self.view(&self.q, first..self.keys, self.shape.qk_width()),
            next_times: &next_times[next_times.len() - rows..],
            first_position: first,
            kv,
            out: MatrixMut::dense(out, rows, self.shape.v_width()).expect("out"),
        }
    }

    /// The candidate rows.
    pub(crate) fn candidates<'a>(&'a self, kv: &'a [KvBlock<'a>], out: &'a mut [f32]) -> CandidateSeq<'a> {
        let rows = self.keys..self.q.len() / self.stride;
        CandidateSeq {
            q: self.view(&self.q, rows.clone(), self.shape.qk_width()),
            own_k: self.view(&self.k, rows.clone(), self.shape.qk_width()),
            own_v: self.view(&self.v, rows.clone(), self.shape.v_width()),
            query_time: self.query_time,
            kv,
            out: MatrixMut::dense(out, rows.len(), self.shape.v_width()).expect("out"),
        }
    }

    pub(crate) fn extra(&self) -> usize {
        self.q.len() / self.stride - self.keys
    }
}

/// A user's keys as the kernels read them.
pub(crate) struct Kept<'a>(Vec<(KvPanels, &'a [i64])>);

impl Kept<'_> {
    pub(crate) fn blocks(&self) -> Vec<KvBlock<'_>> {
        self.0.iter().map(|(panels, times)| panels.block(times).expect("block")).collect()
    }
}

/// Every instruction set that this machine can run, each with two threads; and the model of the tiles where it runs.
pub(crate) fn engines() -> Vec<Arc<Engine>> {
    let all = Isa::available().into_iter().chain([Isa::AmxModel]);
    all.filter_map(|isa| Engine::new(2, Some(isa)).ok().map(Arc::new)).collect()
}

/// Output of `rows x width` that nobody has written yet.
pub(crate) fn poisoned(rows: usize, shape: Shape) -> Vec<f32> {
    vec![f32::NAN; rows * shape.v_width()]
}

/// Largest error of any output, relative to the largest magnitude in its row (rows of `width`). A row whose sum cancels
/// to less than `floor` is judged against `floor`.
pub(crate) fn error(got: &[f32], want: &[f64], (width, floor): (usize, f64)) -> f64 {
    assert_eq!(got.len(), want.len());
    let mut worst = 0.0_f64;
    for (g, w) in got.chunks(width).zip(want.chunks(width)) {
        let size = w.iter().fold(floor, |m, x| m.max(x.abs()));
        for (&a, &b) in g.iter().zip(w) {
            let off = (f64::from(a) - b).abs() / size;
            worst = if off.is_nan() { f64::INFINITY } else { worst.max(off) };
        }
    }
    worst
}
