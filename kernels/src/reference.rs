//! The attention sums in f64, written to be read: the yardstick for every kernel. Time `O(m n)`, one pair at a time.

use crate::{CandidateSeq, CausalSeq, KernelError, KvBlock, Scoring, Shape, time_bucket};

/// One key with its value and time.
#[derive(Clone)]
struct Key {
    k: Vec<f32>,
    v: Vec<f32>,
    time: i64,
}

/// One query: where it stands and when the next event comes.
#[derive(Clone, Copy)]
struct Query<'a> {
    q: &'a [f32],
    position: usize,
    next_time: i64,
}

/// `x * sigmoid(x)`.
fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// All keys of a sequence in order.
fn flatten(shape: Shape, kv: &[KvBlock<'_>]) -> Vec<Key> {
    let mut keys = Vec::new();
    for block in kv {
        for row in 0..block.rows {
            let time = block.times.get(row).copied().unwrap_or(0);
            let mut key = Key { k: vec![0.0; shape.qk_width()], v: vec![0.0; shape.v_width()], time };
            for head in 0..shape.heads {
                let (k, v) = (&mut key.k[head * shape.d_qk..], &mut key.v[head * shape.d_v..]);
                block.layout.read(block.lines, (row, head), &mut k[..shape.d_qk], &mut v[..shape.d_v]);
            }
            keys.push(key);
        }
    }
    keys
}

/// Bias of a pair, in f64 from the f32 tables.
fn pair_bias(scoring: &Scoring<'_>, query: Query<'_>, position: usize, time: i64) -> f64 {
    let Some(bias) = &scoring.bias else { return 0.0 };
    let place = bias.pos_w[bias.max_len - 1 + position - query.position];
    let bucket = time_bucket(query.next_time.saturating_sub(time));
    f64::from(place) + f64::from(bias.ts_w[bucket])
}

/// Adds the weight of one key, for every head, to `sum` (heads * d_v).
fn add_key(shape: Shape, scoring: &Scoring<'_>, query: Query<'_>, (position, key): (usize, &Key), sum: &mut [f64]) {
    let bias = pair_bias(scoring, query, position, key.time);
    for h in 0..shape.heads {
        let (q, k) = (&query.q[h * shape.d_qk..][..shape.d_qk], &key.k[h * shape.d_qk..][..shape.d_qk]);
        let dot: f64 = q.iter().zip(k).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
        let weight = silu(f64::from(scoring.alpha) * dot + bias) * f64::from(scoring.scale);
        let v = &key.v[h * shape.d_v..][..shape.d_v];
        for (s, &x) in sum[h * shape.d_v..][..shape.d_v].iter_mut().zip(v) {
            *s += weight * f64::from(x);
        }
    }
}

/// Outputs of a causal sequence, `m x heads * d_v` in f64; `seq.out` is left alone.
///
/// # Errors
/// [`KernelError::Shape`] when lengths do not fit.
pub fn causal(shape: Shape, scoring: &Scoring<'_>, seq: &CausalSeq<'_>) -> Result<Vec<f64>, KernelError> {
    shape.check()?;
    scoring.check()?;
    seq.check(&shape, scoring)?;
    let keys = flatten(shape, seq.kv);
    let width = shape.v_width();
    let mut out = vec![0.0; seq.q.rows() * width];
    for (i, sum) in out.chunks_mut(width).enumerate() {
        let position = seq.first_position + i;
        let next_time = seq.next_times.get(i).copied().unwrap_or(0);
        let query = Query { q: seq.q.row(i), position, next_time };
        for (j, key) in keys[..=position].iter().enumerate() {
            add_key(shape, scoring, query, (j, key), sum);
        }
    }
    Ok(out)
}

/// Outputs of candidate rows, `m x heads * d_v` in f64; `seq.out` is left alone.
///
/// # Errors
/// [`KernelError::Shape`] when lengths do not fit.
pub fn candidates(shape: Shape, scoring: &Scoring<'_>, seq: &CandidateSeq<'_>) -> Result<Vec<f64>, KernelError> {
    shape.check()?;
    scoring.check()?;
    let n = seq.check(&shape, scoring)?;
    let keys = flatten(shape, seq.kv);
    let width = shape.v_width();
    let mut out = vec![0.0; seq.q.rows() * width];
    for (i, sum) in out.chunks_mut(width).enumerate() {
        let query = Query { q: seq.q.row(i), position: n, next_time: seq.query_time };
        let own = Key { k: seq.own_k.row(i).to_vec(), v: seq.own_v.row(i).to_vec(), time: seq.query_time };
        for (j, key) in keys.iter().chain([&own]).enumerate() {
            add_key(shape, scoring, query, (j, key), sum);
        }
    }
    Ok(out)
}
