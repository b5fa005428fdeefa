//! What an attention call is given: shapes, scores, keys and queries, and the checks on them.

use crate::error::{at_least, at_most, equal};
use crate::{BUCKETS, KernelError, KvBlock, MatrixMut, MatrixRef};

/// The widest head the kernels take, in floats, for `d_qk` and `d_v` alike.
pub const MAX_HEAD_DIM: usize = 256;

/// Heads and their widths. A query or key row is `heads * d_qk` floats, a value or output row `heads * d_v`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Number of heads.
    pub heads: usize,
    /// Width of a query and a key in one head, 1 to [`MAX_HEAD_DIM`].
    pub d_qk: usize,
    /// Width of a value in one head, 1 to [`MAX_HEAD_DIM`].
    pub d_v: usize,
}

/// The relative bias of flavour `rel_bias`: one for all heads of a layer.
#[derive(Debug, Clone, Copy)]
pub struct Bias<'a> {
    /// `2 * max_len - 1` weights: the pair (query position `i`, key position `j`) takes entry `max_len - 1 + j - i`.
    pub pos_w: &'a [f32],
    /// `BUCKETS + 1` weights: the pair takes entry `time_bucket(next_time[i] - time[j])`.
    pub ts_w: &'a [f32],
    /// `N`, fixed by the model, never by the batch.
    pub max_len: usize,
}

/// How a score becomes a weight: `silu(alpha * q.k + bias) * scale`.
#[derive(Debug, Clone, Copy)]
pub struct Scoring<'a> {
    /// The relative bias, or none (flavour `stu`).
    pub bias: Option<Bias<'a>>,
    /// Multiplies `q.k`: 1 in flavour `rel_bias`, `d_qk^-0.5` in `stu`.
    pub alpha: f32,
    /// Multiplies the sum over keys: `1 / N` or `1 / scaling_seqlen`.
    pub scale: f32,
}

/// History rows of one user. Query `i` stands at position `first_position + i` and sees keys `0..=first_position + i`.
/// `first_position` 0 is the whole history; larger is an append to cached keys (which include the rows' own).
#[derive(Debug)]
pub struct CausalSeq<'a> {
    /// `m x heads * d_qk`.
    pub q: MatrixRef<'a>,
    /// Time of the event after each query's, or the time of the request for the newest; may be empty without a bias.
    pub next_times: &'a [i64],
    /// Position of query 0.
    pub first_position: usize,
    /// Keys from position 0 on, at least `first_position + m` of them; later ones are not looked at.
    pub kv: &'a [KvBlock<'a>],
    /// `m x heads * d_v`, overwritten.
    pub out: MatrixMut<'a>,
}

/// Candidate rows of one user: each stands at position `n` (the number of keys), sees all `n` keys and its own, and no
/// other candidate. Its own time and its next time are both `query_time`.
#[derive(Debug)]
pub struct CandidateSeq<'a> {
    /// `m x heads * d_qk`.
    pub q: MatrixRef<'a>,
    /// `m x heads * d_qk`: each candidate's own key.
    pub own_k: MatrixRef<'a>,
    /// `m x heads * d_v`: each candidate's own value.
    pub own_v: MatrixRef<'a>,
    /// Time of the request in seconds.
    pub query_time: i64,
    /// All keys of the history.
    pub kv: &'a [KvBlock<'a>],
    /// `m x heads * d_v`, overwritten.
    pub out: MatrixMut<'a>,
}

impl Shape {
    /// Width of a query or key row.
    #[must_use]
    pub fn qk_width(&self) -> usize {
        self.heads * self.d_qk
    }

    /// Width of a value or output row.
    #[must_use]
    pub fn v_width(&self) -> usize {
        self.heads * self.d_v
    }

    pub(crate) fn check(&self) -> Result<(), KernelError> {
        at_least("shape.heads", 1, self.heads)?;
        at_most("shape.heads", 1024, self.heads)?;
        for (what, d) in [("shape.d_qk", self.d_qk), ("shape.d_v", self.d_v)] {
            at_least(what, 1, d)?;
            at_most(what, MAX_HEAD_DIM, d)?;
        }
        Ok(())
    }
}

impl Scoring<'_> {
    pub(crate) fn check(&self) -> Result<(), KernelError> {
        let Some(bias) = &self.bias else { return Ok(()) };
        at_least("bias.max_len", 1, bias.max_len)?;
        at_most("bias.max_len", 1 << 30, bias.max_len)?;
        equal("bias.pos_w length (2 * max_len - 1)", 2 * bias.max_len - 1, bias.pos_w.len())?;
        equal("bias.ts_w length (buckets + 1)", BUCKETS + 1, bias.ts_w.len())
    }

    /// Positions `0..=highest` need `highest < max_len`.
    fn check_position(&self, highest: usize) -> Result<(), KernelError> {
        match &self.bias {
            Some(bias) => at_most("highest position (bias.max_len - 1)", bias.max_len - 1, highest),
            None => Ok(()),
        }
    }
}

/// Checks the blocks and returns the number of keys in them.
fn check_kv(shape: &Shape, scoring: &Scoring<'_>, kv: &[KvBlock<'_>]) -> Result<usize, KernelError> {
    let mut keys = 0;
    for block in kv {
        let (found, format) = (block.layout.shape(), block.layout.format());
        equal("kv heads", shape.heads, found.heads)?;
        equal("kv.k width of a head (d_qk)", shape.d_qk, found.d_qk)?;
        equal("kv.v width of a head (d_v)", shape.d_v, found.d_v)?;
        equal("kv format (as the first block's)", kv[0].layout.format() as usize, format as usize)?;
        if scoring.bias.is_some() {
            equal("kv.times length (as kv rows)", block.rows, block.times.len())?;
        }
        keys += block.rows;
    }
    at_most("kv rows in all", 1 << 30, keys)?;
    Ok(keys)
}

impl CausalSeq<'_> {
    /// Checks every length against the others.
    pub(crate) fn check(&self, shape: &Shape, scoring: &Scoring<'_>) -> Result<(), KernelError> {
        let m = self.q.rows();
        equal("q columns (heads * d_qk)", shape.qk_width(), self.q.cols())?;
        equal("out columns (heads * d_v)", shape.v_width(), self.out.cols())?;
        equal("out rows (as q)", m, self.out.rows())?;
        if scoring.bias.is_some() {
            equal("next_times length (as q rows)", m, self.next_times.len())?;
        }
        at_most("first_position", 1 << 30, self.first_position)?;
        let keys = check_kv(shape, scoring, self.kv)?;
        if m == 0 {
            return Ok(());
        }
        at_least("kv rows in all (first_position + q rows)", self.first_position + m, keys)?;
        scoring.check_position(self.first_position + m - 1)
    }
}

impl CandidateSeq<'_> {
    /// Checks every length against the others; returns the number of keys.
    pub(crate) fn check(&self, shape: &Shape, scoring: &Scoring<'_>) -> Result<usize, KernelError> {
        let m = self.q.rows();
        equal("q columns (heads * d_qk)", shape.qk_width(), self.q.cols())?;
        equal("own_k columns (heads * d_qk)", shape.qk_width(), self.own_k.cols())?;
        equal("own_v columns (heads * d_v)", shape.v_width(), self.own_v.cols())?;
        equal("out columns (heads * d_v)", shape.v_width(), self.out.cols())?;
        equal("own_k rows (as q)", m, self.own_k.rows())?;
        equal("own_v rows (as q)", m, self.own_v.rows())?;
        equal("out rows (as q)", m, self.out.rows())?;
        let keys = check_kv(shape, scoring, self.kv)?;
        if m > 0 {
            scoring.check_position(keys)?;
        }
        Ok(keys)
    }
}
