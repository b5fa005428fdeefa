//! A random user of the kernels, for the command and for the criterion benches.

use longbow_kernels::{
    BUCKETS, Bias, CandidateSeq, CausalSeq, Engine, KvFormat, KvPanels, MatrixMut, MatrixRef, Scoring, Shape,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Room for output rows behind the history in the position table.
const OUTPUT_ROWS: usize = 240;

/// Random rows `u | v | q | k` of one projection, the keys in panels as the model keeps them, with times and bias tables.
pub(crate) struct World {
    /// Shape of the heads.
    pub(crate) shape: Shape,
    /// Whether calls have a bias.
    pub(crate) biased: bool,
    n: usize,
    candidates: usize,
    rows: Vec<f32>,
    keys: KvPanels,
    times: Vec<i64>,
    pos_w: Vec<f32>,
    ts_w: Vec<f32>,
    out: Vec<f32>,
}

impl World {
    /// `n` events about an hour apart in sessions, kept in `format`, and `candidates` rows.
    ///
    /// # Errors
    /// Those of the kernels.
    pub(crate) fn new(shape: Shape, n: usize, candidates: usize, format: KvFormat) -> anyhow::Result<Self> {
        let mut rng = StdRng::seed_from_u64(7);
        let mut floats = |len: usize, size: f32| (0..len).map(|_| rng.random_range(-size..size)).collect::<Vec<f32>>();
        let width = 2 * (shape.qk_width() + shape.v_width());
        let rows = floats((n + candidates) * width, 0.5);
        let pos_w = floats(2 * (n + OUTPUT_ROWS) - 1, 0.5);
        let ts_w = floats(BUCKETS + 1, 0.5);
        let mut now = 1_600_000_000_i64;
        let times = (0..=n)
            .map(|_| {
                now += if rng.random_bool(0.05) { rng.random_range(0..72_000) } else { rng.random_range(0..120) };
                now
            })
            .collect();
        let out = vec![0.0; n.max(candidates) * shape.v_width()];
        let (qk, v) = (shape.qk_width(), shape.v_width());
        let all = MatrixRef::dense(&rows, n + candidates, width)?;
        let (values, kept) = (all.cols_at(v, v), all.cols_at(2 * v + qk, qk));
        let keys = KvPanels::from_rows(shape, format, kept.rows_at(0, n), values.rows_at(0, n))?;
        Ok(Self { shape, biased: true, n, candidates, rows, keys, times, pos_w, ts_w, out })
    }

    /// One attention call: the last `appended` rows of the history (all of it: `n`), or the candidates when `None`.
    ///
    /// # Errors
    /// Those of the kernels.
    pub(crate) fn attend(&mut self, engine: &Engine, appended: Option<usize>) -> anyhow::Result<()> {
        let (qk, v, n) = (self.shape.qk_width(), self.shape.v_width(), self.n);
        let all = MatrixRef::dense(&self.rows, n + self.candidates, 2 * (qk + v))?;
        let (values, queries, keys) = (all.cols_at(v, v), all.cols_at(2 * v, qk), all.cols_at(2 * v + qk, qk));
        let kv = [self.keys.block(&self.times[..n])?];
        let bias = Bias { pos_w: &self.pos_w, ts_w: &self.ts_w, max_len: n + OUTPUT_ROWS };
        let scoring = Scoring { bias: self.biased.then_some(bias), alpha: 1.0, scale: 1.0 / 10_240.0 };
        match appended {
            Some(rows) => {
                let first_position = n - rows;
                let seq = CausalSeq {
                    q: queries.rows_at(first_position, rows),
                    next_times: &self.times[first_position + 1..],
                    first_position,
                    kv: &kv,
                    out: MatrixMut::dense(&mut self.out, rows, v)?,
                };
                engine.causal(self.shape, &scoring, &mut [seq])?;
            }
            None => {
                let rows = self.candidates;
                let seq = CandidateSeq {
                    q: queries.rows_at(n, rows),
                    own_k: keys.rows_at(n, rows),
                    own_v: values.rows_at(n, rows),
                    query_time: self.times[n],
                    kv: &kv,
                    out: MatrixMut::dense(&mut self.out, rows, v)?,
                };
                engine.candidates(self.shape, &scoring, &mut [seq])?;
            }
        }
        Ok(())
    }
}
