//! Shapes of a model, read from the safetensors metadata key `config` (JSON) and held to limits before
//! anything is allocated from them.

use serde::{Deserialize, Serialize};

/// Most rows of one history, output rows included.
pub const LENGTH_MAX: usize = 1 << 17;
/// Most width of a row, in numbers.
pub const WIDTH_MAX: usize = 4096;
/// Most width of one attention head, in numbers.
pub const HEAD_WIDTH_MAX: usize = longbow_kernels::MAX_HEAD_DIM;
/// Most heads of a layer.
pub const HEADS_MAX: usize = 64;
/// Most layers.
pub const BLOCKS_MAX: usize = 64;
/// Most rows of an item table.
pub const ITEMS_MAX: usize = 1 << 27;
/// Most kinds of action.
pub const ACTIONS_MAX: usize = 1 << 16;
/// Most tasks of the heads.
pub const TASKS_MAX: usize = 64;
/// Most time buckets (the bucket of 2^63 seconds is 145).
pub const TIME_BUCKETS_MAX: usize = 1024;

/// A field of a configuration which cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("config field `{field}`: {reason}")]
pub struct ConfigError {
    /// Name of the field in the JSON.
    pub field: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

impl ConfigError {
    pub(crate) fn new(field: &str, reason: impl Into<String>) -> Self {
        Self { field: field.to_owned(), reason: reason.into() }
    }
}

/// Shapes of a `rel_bias` model: the form that serves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Most events of a history.
    pub max_sequence_len: usize,
    /// Rows kept free after the history (candidates stand at position n, so at least one).
    pub max_output_len: usize,
    /// D: width of a row.
    pub embedding_dim: usize,
    /// Width of an item's part of the row, and of the retrieval query.
    pub item_embedding_dim: usize,
    /// Width of the action part of a row; 0 where the model has none.
    pub action_embedding_dim: usize,
    /// Rows of the action table; row 0 is "none" (candidates).
    pub num_actions: usize,
    /// Layers.
    pub num_blocks: usize,
    /// Heads of each layer.
    pub num_heads: usize,
    /// Width of q and k of one head.
    pub attention_dim: usize,
    /// Width of u and v of one head.
    pub linear_dim: usize,
    /// Items in the model's own table; the table has one row more, row 0 being padding.
    pub num_items: usize,
    /// Highest time bucket; the table has one entry more.
    pub num_time_buckets: usize,
    /// Always `rel_bias`.
    pub normalization: String,
    /// Activation of u, v, q and k: always `silu`.
    #[serde(default = "silu")]
    pub linear_activation: String,
    /// Whether the output layer also reads u and a: always false.
    #[serde(default)]
    pub concat_ua: bool,
    /// Epsilon of the layer norms without affine part, and of the L2 norm.
    #[serde(default = "epsilon")]
    pub epsilon: f64,
    /// Tasks of the heads; 0 where the model has none.
    #[serde(default)]
    pub num_tasks: usize,
}

/// Shapes of an `stu` model: the ranking-benchmark form, rows in and rows out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StuConfig {
    /// Always `stu`.
    pub normalization: String,
    /// D: width of a row.
    pub embedding_dim: usize,
    /// Heads of each layer.
    pub num_heads: usize,
    /// Width of q and k of one head.
    pub attention_dim: usize,
    /// Width of u and v of one head.
    pub linear_dim: usize,
    /// Layers.
    pub num_blocks: usize,
    /// Rows at the front which see the whole history.
    #[serde(default)]
    pub contextual_len: usize,
    /// Rows of the history, contextual rows included.
    pub history_len: usize,
    /// Rows after the history, each of which sees the history and itself.
    pub num_candidates: usize,
    /// Divisor of the attention sum.
    pub scaling_seqlen: usize,
    /// Factor on q.k.
    pub alpha: f64,
    /// Epsilon of the layer norms.
    #[serde(default = "epsilon")]
    pub epsilon: f64,
}

/// Either form of configuration.
#[derive(Debug, Clone, PartialEq)]
pub enum Flavour {
    /// The form that serves.
    RelBias(Config),
    /// The ranking-benchmark form.
    Stu(StuConfig),
}

fn silu() -> String {
    "silu".to_owned()
}

fn epsilon() -> f64 {
    1e-6
}

impl Flavour {
    /// Reads and validates a configuration.
    ///
    /// # Errors
    /// Names the field which is absent, unknown, of a wrong type or out of limits.
    pub fn parse(json: &str) -> Result<Self, ConfigError> {
        let whole = |e: serde_json::Error| ConfigError::new("config", e.to_string());
        let value: serde_json::Value = serde_json::from_str(json).map_err(whole)?;
        let form = value.get("normalization").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
        match form.as_str() {
            "rel_bias" => {
                let config: Config = serde_json::from_value(value).map_err(whole)?;
                config.validate()?;
                Ok(Self::RelBias(config))
            }
            "stu" => {
                let config: StuConfig = serde_json::from_value(value).map_err(whole)?;
                config.validate()?;
                Ok(Self::Stu(config))
            }
            other => {
                Err(ConfigError::new("normalization", format!("`{other}` is unknown: it must be `rel_bias` or `stu`")))
            }
        }
    }

    /// The name in the field `normalization`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::RelBias(_) => "rel_bias",
            Self::Stu(_) => "stu",
        }
    }
}

fn within(field: &str, value: usize, least: usize, most: usize) -> Result<(), ConfigError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::new(field, format!("{value} is outside {least}..={most}")))
}

fn small_positive(field: &str, value: f64, most: f64) -> Result<(), ConfigError> {
    if value.is_finite() && value > 0.0 && value <= most {
        return Ok(());
    }
    Err(ConfigError::new(field, format!("{value} must be above 0 and at most {most}")))
}

impl Config {
    /// Holds every field to its limits and the fields to each other.
    ///
    /// # Errors
    /// Names the first field that does not hold.
    pub fn validate(&self) -> Result<(), ConfigError> {
        within("max_sequence_len", self.max_sequence_len, 1, LENGTH_MAX)?;
        within("max_output_len", self.max_output_len, 1, LENGTH_MAX)?;
        within("max_sequence_len", self.max_len(), 2, LENGTH_MAX)?;
        within("embedding_dim", self.embedding_dim, 1, WIDTH_MAX)?;
        within("item_embedding_dim", self.item_embedding_dim, 1, WIDTH_MAX)?;
        within("action_embedding_dim", self.action_embedding_dim, 0, WIDTH_MAX)?;
        within("num_actions", self.num_actions, usize::from(self.action_embedding_dim > 0), ACTIONS_MAX)?;
        within("num_blocks", self.num_blocks, 1, BLOCKS_MAX)?;
        within("num_heads", self.num_heads, 1, HEADS_MAX)?;
        within("attention_dim", self.attention_dim, 1, HEAD_WIDTH_MAX)?;
        within("linear_dim", self.linear_dim, 1, HEAD_WIDTH_MAX)?;
        within("num_items", self.num_items, 0, ITEMS_MAX)?;
        within("num_time_buckets", self.num_time_buckets, 1, TIME_BUCKETS_MAX)?;
        within("num_tasks", self.num_tasks, 0, TASKS_MAX)?;
        small_positive("epsilon", self.epsilon, 1e-2)?;
        if self.embedding_dim != self.item_embedding_dim + self.action_embedding_dim {
            let reason = format!(
                "{} is not item_embedding_dim {} + action_embedding_dim {}",
                self.embedding_dim, self.item_embedding_dim, self.action_embedding_dim
            );
            return Err(ConfigError::new("embedding_dim", reason));
        }
        for (field, found, known) in
            [("normalization", &self.normalization, "rel_bias"), ("linear_activation", &self.linear_activation, "silu")]
        {
            if found != known {
                return Err(ConfigError::new(field, format!("`{found}` is not supported: it must be `{known}`")));
            }
        }
        if self.concat_ua {
            return Err(ConfigError::new("concat_ua", "true is not supported: it must be false"));
        }
        Ok(())
    }

    /// N: rows of the position table and half the width of the position bias.
    #[must_use]
    pub fn max_len(&self) -> usize {
        self.max_sequence_len + self.max_output_len
    }

    /// Width of k (and of q) over all heads.
    #[must_use]
    pub fn k_width(&self) -> usize {
        self.num_heads * self.attention_dim
    }

    /// Width of v (and of u) over all heads.
    #[must_use]
    pub fn v_width(&self) -> usize {
        self.num_heads * self.linear_dim
    }

    /// Width of [u|v|q|k].
    #[must_use]
    pub fn uvqk_width(&self) -> usize {
        2 * (self.k_width() + self.v_width())
    }

    /// Width of [v|k], what is kept of an event in each layer.
    #[must_use]
    pub fn kept_width(&self) -> usize {
        self.k_width() + self.v_width()
    }

    /// Bytes of K/V state that one event keeps, over all layers.
    #[must_use]
    pub fn state_bytes_per_event(&self) -> usize {
        self.num_blocks * self.kept_width() * 4 + 14
    }
}

impl StuConfig {
    /// Holds every field to its limits and the fields to each other.
    ///
    /// # Errors
    /// Names the first field that does not hold.
    pub fn validate(&self) -> Result<(), ConfigError> {
        within("embedding_dim", self.embedding_dim, 1, WIDTH_MAX)?;
        within("num_heads", self.num_heads, 1, HEADS_MAX)?;
        within("attention_dim", self.attention_dim, 1, HEAD_WIDTH_MAX)?;
        within("linear_dim", self.linear_dim, 1, HEAD_WIDTH_MAX)?;
        within("num_blocks", self.num_blocks, 1, BLOCKS_MAX)?;
        within("history_len", self.history_len, 0, LENGTH_MAX)?;
        within("contextual_len", self.contextual_len, 0, self.history_len)?;
        within("num_candidates", self.num_candidates, 0, LENGTH_MAX)?;
        within("history_len", self.rows(), 1, LENGTH_MAX)?;
        within("scaling_seqlen", self.scaling_seqlen, 1, LENGTH_MAX)?;
        small_positive("epsilon", self.epsilon, 1e-2)?;
        small_positive("alpha", self.alpha, 1e3)
    }

    /// Rows in and rows out.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.history_len + self.num_candidates
    }

    /// Width of k (and of q) over all heads.
    #[must_use]
    pub fn k_width(&self) -> usize {
        self.num_heads * self.attention_dim
    }

    /// Width of v (and of u) over all heads.
    #[must_use]
    pub fn v_width(&self) -> usize {
        self.num_heads * self.linear_dim
    }

    /// Width of [u|v|q|k].
    #[must_use]
    pub fn uvqk_width(&self) -> usize {
        2 * (self.k_width() + self.v_width())
    }
}
