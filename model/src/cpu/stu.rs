//! The fast path of the `stu` flavour: rows in, rows out.

use std::sync::Arc;

use longbow_kernels::{
    Affine, CandidateSeq, CausalSeq, Engine, KernelError, KvFormat, KvPanels, LayerNorm, Linear, MatrixMut, MatrixRef,
    PackedMatrix, Scoring, Shape,
};

use crate::encoder::EncodeError;
use crate::model::StuModel;

/// Runs an `stu` model on the kernels. Contextual rows come first and see the whole history; history rows see
/// those before them; each candidate sees the history and itself.
#[derive(Debug)]
pub struct CpuStuEncoder {
    model: Arc<StuModel>,
    engine: Arc<Engine>,
}

/// Row matrices of one call.
struct Rows {
    x: Vec<f32>,
    uvqk: Vec<f32>,
    attention: Vec<f32>,
    /// `[u | a | u * norm(a)]`.
    joined: Vec<f32>,
}

impl CpuStuEncoder {
    /// An encoder of `model` on `engine`.
    #[must_use]
    pub fn new(model: Arc<StuModel>, engine: Arc<Engine>) -> Self {
        Self { model, engine }
    }

    /// Encodes `[history_len + num_candidates, D]` rows, row-major, to as many.
    ///
    /// # Errors
    /// [`EncodeError::Kernel`] where `rows` has another length.
    pub fn encode(&self, rows: &[f32]) -> Result<Vec<f32>, EncodeError> {
        let config = self.model.config();
        let n = config.rows();
        if rows.len() != n * config.embedding_dim {
            return Err(EncodeError::Kernel(format!(
                "{} numbers given, {n} rows of {} expected",
                rows.len(),
                config.embedding_dim
            )));
        }
        let mut m = Rows {
            x: rows.to_vec(),
            uvqk: vec![0.0; n * config.uvqk_width()],
            attention: vec![0.0; n * config.v_width()],
            joined: vec![0.0; n * 3 * config.v_width()],
        };
        for layer in 0..config.num_blocks {
            self.project(layer, &mut m)?;
            self.attend(&mut m)?;
            self.output(layer, &mut m)?;
        }
        Ok(m.x)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the fast path computes in f32")]
    fn epsilon(&self) -> f32 {
        self.model.config().epsilon as f32
    }

    fn norm(&self, layer: usize, weight: &str, bias: &str) -> LayerNorm<'_> {
        let affine =
            Affine { weight: &self.model.weight(layer, weight).data, bias: &self.model.weight(layer, bias).data };
        LayerNorm { epsilon: self.epsilon(), affine: Some(affine) }
    }

    /// [u|v|q|k] = norm(x) W + beta, then SiLU on u.
    fn project(&self, layer: usize, m: &mut Rows) -> Result<(), KernelError> {
        let config = self.model.config();
        let (n, d, width) = (config.rows(), config.embedding_dim, config.uvqk_width());
        let norm = self.norm(layer, "_input_norm_weight", "_input_norm_bias");
        let weight = PackedMatrix::new(MatrixRef::dense(&self.model.weight(layer, "_uvqk_weight").data, d, width)?);
        let linear = Linear { weight: &weight, bias: Some(&self.model.weight(layer, "_uvqk_beta").data) };
        let uvqk = MatrixMut::dense(&mut m.uvqk, n, width)?;
        self.engine.project(MatrixRef::dense(&m.x, n, d)?, norm, linear, (config.v_width(), uvqk))
    }

    #[expect(clippy::cast_possible_truncation, reason = "the fast path computes in f32")]
    #[expect(clippy::cast_precision_loss, reason = "lengths are far below 2^24")]
    fn attend(&self, m: &mut Rows) -> Result<(), KernelError> {
        let config = self.model.config();
        let (n, history, context) = (config.rows(), config.history_len, config.contextual_len);
        let (v_width, k_width) = (config.v_width(), config.k_width());
        let shape = Shape { heads: config.num_heads, d_qk: config.attention_dim, d_v: config.linear_dim };
        let scale = 1.0 / config.scaling_seqlen as f32;
        let scoring = Scoring { bias: None, alpha: config.alpha as f32, scale };
        let all = MatrixRef::dense(&m.uvqk, n, config.uvqk_width())?;
        let (v, q) = (all.cols_at(v_width, v_width), all.cols_at(2 * v_width, k_width));
        let k = all.cols_at(2 * v_width + k_width, k_width);
        let panels = KvPanels::from_rows(shape, KvFormat::F32, k.rows_at(0, history), v.rows_at(0, history))?;
        let kv = [panels.block(&[])?];

        let mut seqs = Vec::with_capacity(context + 1);
        let mut rest = MatrixMut::dense(&mut m.attention, n, v_width)?;
        let mut causal = |first: usize, count: usize, position: usize| {
            let (out, after) = std::mem::replace(&mut rest, MatrixMut::dense(&mut [], 0, v_width)?).split_rows(count);
            rest = after;
            let q = q.rows_at(first, count);
            seqs.push(CausalSeq { q, next_times: &[], first_position: position, kv: &kv, out });
            Ok::<(), KernelError>(())
        };
        for row in 0..context {
            causal(row, 1, history - 1)?;
        }
        causal(context, history - context, context)?;
        self.engine.causal(shape, &scoring, &mut seqs)?;
        let count = config.num_candidates;
        let (q, own_k, own_v) = (q.rows_at(history, count), k.rows_at(history, count), v.rows_at(history, count));
        let seq = CandidateSeq { q, own_k, own_v, query_time: 0, kv: &kv, out: rest };
        self.engine.candidates(shape, &scoring, &mut [seq])
    }

    /// x += [u | a | u * norm(a)] W_out.
    fn output(&self, layer: usize, m: &mut Rows) -> Result<(), KernelError> {
        let config = self.model.config();
        let (n, d, v_width) = (config.rows(), config.embedding_dim, config.v_width());
        let u = MatrixRef::dense(&m.uvqk, n, config.uvqk_width())?.cols_at(0, v_width);
        let a = MatrixRef::dense(&m.attention, n, v_width)?;
        let norm = self.norm(layer, "_output_norm_weight", "_output_norm_bias");
        let gated = MatrixMut::dense(&mut m.joined, n, 3 * v_width)?.cols_at(2 * v_width, v_width);
        self.engine.layer_norm(a, norm, Some(u), gated)?;
        for (row, joined) in m.joined.chunks_exact_mut(3 * v_width).enumerate() {
            joined[..v_width].copy_from_slice(u.row(row));
            joined[v_width..2 * v_width].copy_from_slice(a.row(row));
        }
        let weight = MatrixRef::dense(&self.model.weight(layer, "_output_weight").data, 3 * v_width, d)?;
        let linear = Linear { weight: &PackedMatrix::new(weight), bias: None };
        self.engine.add_linear(MatrixRef::dense(&m.joined, n, 3 * v_width)?, linear, MatrixMut::dense(&mut m.x, n, d)?)
    }
}
