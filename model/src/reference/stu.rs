//! The reference of the `stu` flavour.

use candle_core::{D, DType, Device, Tensor};

use super::{Result, chunk_rows, flat, join_heads, layer_norm, real, silu, split_heads, tensor};
use crate::config::StuConfig;
use crate::encoder::EncodeError;
use crate::model::StuModel;

/// An `stu` model's weights as candle tensors.
#[derive(Debug)]
pub struct ReferenceStuEncoder {
    config: StuConfig,
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    input_norm: (Tensor, Tensor),
    uvqk: (Tensor, Tensor),
    output_norm: (Tensor, Tensor),
    output: Tensor,
}

impl ReferenceStuEncoder {
    /// An encoder of `model`.
    ///
    /// # Errors
    /// [`EncodeError::Kernel`] where candle cannot hold the weights.
    pub fn new(model: &StuModel) -> Result<Self, EncodeError> {
        let layer = |at: usize| {
            let part = |part: &str| tensor(model.weight(at, part));
            Ok(Layer {
                input_norm: (part("_input_norm_weight")?, part("_input_norm_bias")?),
                uvqk: (part("_uvqk_weight")?, part("_uvqk_beta")?),
                output_norm: (part("_output_norm_weight")?, part("_output_norm_bias")?),
                output: part("_output_weight")?,
            })
        };
        let config = model.config().clone();
        let layers = (0..config.num_blocks).map(layer).collect::<Result<_>>()?;
        Ok(Self { config, layers })
    }

    /// Encodes `[history_len + num_candidates, D]` rows, row-major, to as many.
    ///
    /// # Errors
    /// [`EncodeError::Kernel`] where `rows` has another length.
    pub fn encode(&self, rows: &[f32]) -> Result<Vec<f32>, EncodeError> {
        let shape = (self.config.rows(), self.config.embedding_dim);
        let mut x = Tensor::from_slice(rows, shape, &Device::Cpu)?.to_dtype(DType::F64)?;
        for layer in &self.layers {
            x = layer.forward(&x, &self.config)?;
        }
        Ok(flat(&x)?)
    }
}

fn affine_norm(x: &Tensor, (weight, bias): &(Tensor, Tensor), epsilon: f64) -> Result<Tensor> {
    layer_norm(x, epsilon)?.broadcast_mul(weight)?.broadcast_add(bias)
}

/// Whether row i sees row j: a contextual row sees the whole history, a history row all up to itself, a
/// candidate the history and itself.
fn sees(i: usize, j: usize, config: &StuConfig) -> bool {
    let history = config.history_len;
    i == j || (j < history && (j < i || i < config.contextual_len))
}

impl Layer {
    /// y = x + [u | a | u * norm(a)] W_out, with u, v, q, k = norm(x) W + beta, SiLU on u only, and
    /// a_i = sum_j silu(alpha q_i . k_j) / scaling_seqlen * v_j.
    fn forward(&self, x: &Tensor, config: &StuConfig) -> Result<Tensor> {
        let uvqk = affine_norm(x, &self.input_norm, config.epsilon)?.matmul(&self.uvqk.0)?;
        let uvqk = uvqk.broadcast_add(&self.uvqk.1)?;
        let (v_width, k_width, heads) = (config.v_width(), config.k_width(), config.num_heads);
        let u = silu(&uvqk.narrow(1, 0, v_width)?)?;
        let v = split_heads(&uvqk.narrow(1, v_width, v_width)?, heads)?;
        let q = split_heads(&uvqk.narrow(1, 2 * v_width, k_width)?, heads)?;
        let k = split_heads(&uvqk.narrow(1, 2 * v_width + k_width, k_width)?, heads)?;
        let n = config.rows();
        let mut chunks = Vec::new();
        let step = chunk_rows(n, heads);
        for start in (0..n).step_by(step) {
            let count = step.min(n - start);
            let scores = (q.narrow(1, start, count)?.matmul(&k.t()?)? * config.alpha)?;
            let mask: Vec<f64> = (start..start + count)
                .flat_map(|i| (0..n).map(move |j| f64::from(u8::from(sees(i, j, config)))))
                .collect();
            let mask = Tensor::from_vec(mask, (count, n), &Device::Cpu)?;
            let weights = (silu(&scores)?.broadcast_mul(&mask)? / real(config.scaling_seqlen))?;
            chunks.push(join_heads(&weights.matmul(&v)?)?);
        }
        let a = Tensor::cat(&chunks, 0)?;
        let gated = (&u * affine_norm(&a, &self.output_norm, config.epsilon)?)?;
        let joined = Tensor::cat(&[u, a, gated], D::Minus1)?;
        x + joined.matmul(&self.output)?
    }
}
