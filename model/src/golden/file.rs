//! The golden tensors of a file, held to each other and to the configuration.

use super::GoldenError;
use crate::config::{Config, StuConfig};
use crate::load::header::Dtype;
use crate::load::{self, LoadError, Recorded as Tensors};
use crate::model::Model;
use crate::window::Window;

/// Inputs and outputs of a `rel_bias` file.
#[derive(Debug)]
pub(super) struct Histories {
    pub(super) users: Vec<User>,
    pub(super) tasks: usize,
}

/// One history with what is known of its outputs.
#[derive(Debug)]
pub(super) struct User {
    items: Vec<u32>,
    actions: Vec<u16>,
    times: Vec<i64>,
    pub(super) query_time: i64,
    /// Position and expected row `[D_item]`, L2-normalised.
    pub(super) outputs: Vec<(usize, Vec<f32>)>,
    pub(super) candidates: Vec<u32>,
    /// `[C, D]`, empty where the file has none.
    pub(super) candidate_rows: Vec<f32>,
    /// `[C, T]`, empty where the file has none.
    pub(super) candidate_probs: Vec<f32>,
}

/// Rows of an `stu` file.
#[derive(Debug)]
pub(super) struct StuRows {
    pub(super) input: Vec<f32>,
    pub(super) output: Vec<f32>,
}

/// Content vectors and their embeddings.
#[derive(Debug)]
pub(super) struct Content {
    vectors: Golden<f32>,
    rows: Golden<f32>,
}

/// A tensor with its numbers.
#[derive(Debug)]
struct Golden<T> {
    shape: Vec<usize>,
    data: Vec<T>,
}

impl<T> Golden<T> {
    /// Holds the shape to a form: exact where a dimension is given, free where not.
    fn held(self, name: &'static str, form: &[Option<usize>]) -> Result<Self, GoldenError> {
        let fits = self.shape.len() == form.len()
            && self.shape.iter().zip(form).all(|(found, wanted)| wanted.is_none_or(|wanted| wanted == *found));
        if fits {
            return Ok(self);
        }
        let form: Vec<String> = form.iter().map(|d| d.map_or_else(|| "any".to_owned(), |d| d.to_string())).collect();
        Err(GoldenError::Shape { name, expected: format!("[{}]", form.join(", ")), found: self.shape })
    }
}

fn absent(name: &'static str, needed: &str) -> GoldenError {
    GoldenError::Absent { name, needed: needed.to_owned() }
}

fn integers(tensors: &Tensors, name: &'static str) -> Result<Option<Golden<i64>>, GoldenError> {
    let Some((entry, raw)) = tensors.get(name) else { return Ok(None) };
    let data = match entry.dtype {
        Dtype::I64 => raw.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
        Dtype::I32 => raw.as_chunks::<4>().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect(),
        other => return Err(LoadError::Dtype { name: entry.name.clone(), found: format!("{other:?}") }.into()),
    };
    Ok(Some(Golden { shape: entry.shape.clone(), data }))
}

fn floats(tensors: &Tensors, name: &'static str) -> Result<Option<Golden<f32>>, GoldenError> {
    let Some((entry, raw)) = tensors.get(name) else { return Ok(None) };
    Ok(Some(Golden { shape: entry.shape.clone(), data: load::floats(entry, raw)? }))
}

/// An integer in `0..=most`.
fn bounded(name: &'static str, index: usize, value: i64, most: usize) -> Result<usize, GoldenError> {
    match usize::try_from(value) {
        Ok(small) if small <= most => Ok(small),
        _ => Err(GoldenError::Value { name, index, reason: format!("{value} is outside 0..={most}") }),
    }
}

/// The whole file's tensors before they are cut into users.
struct Whole {
    users: usize,
    width: usize,
    lengths: Vec<usize>,
    positions: Vec<usize>,
    item_ids: Golden<i64>,
    times: Golden<i64>,
    actions: Option<Golden<i64>>,
    query_time: Golden<i64>,
    output: Option<Golden<f32>>,
    candidate_ids: Option<Golden<i64>>,
    candidate_rows: Option<Golden<f32>>,
    candidate_probs: Option<Golden<f32>>,
}

impl Whole {
    fn parse(config: &Config, tensors: &Tensors) -> Result<Self, GoldenError> {
        let item_ids = integers(tensors, "item_ids")?.ok_or_else(|| absent("item_ids", "[B, N] item ids"))?;
        let item_ids = item_ids.held("item_ids", &[None, None])?;
        let (users, width) = (item_ids.shape[0], item_ids.shape[1]);
        let (b, n) = (Some(users), Some(width));
        let times = integers(tensors, "timestamps")?.ok_or_else(|| absent("timestamps", "[B, N] seconds"))?;
        let lengths = integers(tensors, "lengths")?.ok_or_else(|| absent("lengths", "[B] events"))?;
        let lengths = lengths.held("lengths", &[b])?;
        let most = config.max_sequence_len.min(width);
        let lengths = lengths
            .data
            .iter()
            .enumerate()
            .map(|(i, &len)| bounded("lengths", i, len, most))
            .collect::<Result<_, _>>()?;
        let query_time = integers(tensors, "query_time")?.ok_or_else(|| absent("query_time", "[B] seconds"))?;
        let actions = integers(tensors, "actions")?.map(|t| t.held("actions", &[b, n])).transpose()?;
        if actions.is_none() && config.action_embedding_dim > 0 {
            return Err(absent("actions", "[B, N], as the model has an action part"));
        }
        let positions: Vec<usize> = match integers(tensors, "positions")? {
            Some(given) => {
                let given = given.held("positions", &[None])?;
                let place = |(i, &at): (usize, &i64)| bounded("positions", i, at, config.max_len());
                given.data.iter().enumerate().map(place).collect::<Result<_, _>>()?
            }
            None => (0..width).collect(),
        };
        let item_dim = Some(config.item_embedding_dim);
        let output = floats(tensors, "output")?;
        let output = output.map(|t| t.held("output", &[b, Some(positions.len()), item_dim])).transpose()?;
        let candidate_ids = integers(tensors, "candidate_ids")?;
        let candidate_ids = candidate_ids.map(|t| t.held("candidate_ids", &[b, None])).transpose()?;
        let c = candidate_ids.as_ref().map(|t| t.shape[1]);
        let of_candidates = |name: &'static str, last: usize| match (floats(tensors, name)?, c) {
            (Some(_), None) => Err(absent("candidate_ids", "[B, C], as there are candidate outputs")),
            (Some(found), c) => Ok(Some(found.held(name, &[b, c, Some(last)])?)),
            (None, _) => Ok(None),
        };
        Ok(Self {
            candidate_rows: of_candidates("candidate_rows", config.embedding_dim)?,
            candidate_probs: of_candidates("candidate_probs", config.num_tasks)?,
            times: times.held("timestamps", &[b, n])?,
            query_time: query_time.held("query_time", &[b])?,
            users,
            width,
            lengths,
            positions,
            item_ids,
            actions,
            output,
            candidate_ids,
        })
    }

    fn user(&self, at: usize, config: &Config) -> Result<User, GoldenError> {
        let (len, first) = (self.lengths[at], at * self.width);
        let row = first..first + len;
        let slots = |name: &'static str, ids: &[i64], first: usize| -> Result<Vec<u32>, GoldenError> {
            let slot = |(i, &id): (usize, &i64)| bounded(name, first + i, id, config.num_items);
            ids.iter().enumerate().map(|pair| Ok(u32::try_from(slot(pair)?).unwrap_or(u32::MAX))).collect()
        };
        let action = |(i, &a): (usize, &i64)| {
            let action = bounded("actions", first + i, a, usize::from(u16::MAX))?;
            Ok::<u16, GoldenError>(u16::try_from(action).unwrap_or(u16::MAX))
        };
        let actions = match &self.actions {
            Some(given) => given.data[row.clone()].iter().enumerate().map(action).collect::<Result<_, _>>()?,
            None => vec![0; len],
        };
        let mut outputs = Vec::new();
        if let Some(output) = &self.output {
            let dim = config.item_embedding_dim;
            for (i, &position) in self.positions.iter().enumerate().filter(|(_, position)| **position < len) {
                let from = (at * self.positions.len() + i) * dim;
                outputs.push((position, output.data[from..from + dim].to_vec()));
            }
        }
        let part = |t: &Option<Golden<f32>>| {
            let len = t.as_ref().map_or(0, |t| t.shape[1] * t.shape[2]);
            t.as_ref().map_or_else(Vec::new, |t| t.data[at * len..(at + 1) * len].to_vec())
        };
        let candidates = match &self.candidate_ids {
            Some(ids) => {
                let c = ids.shape[1];
                slots("candidate_ids", &ids.data[at * c..(at + 1) * c], at * c)?
            }
            None => Vec::new(),
        };
        Ok(User {
            items: slots("item_ids", &self.item_ids.data[row.clone()], first)?,
            actions,
            times: self.times.data[row].to_vec(),
            query_time: self.query_time.data[at],
            outputs,
            candidates,
            candidate_rows: part(&self.candidate_rows),
            candidate_probs: part(&self.candidate_probs),
        })
    }
}

impl Histories {
    pub(super) fn parse(config: &Config, tensors: &Tensors) -> Result<Self, GoldenError> {
        let whole = Whole::parse(config, tensors)?;
        if whole.output.is_none() && whole.candidate_rows.is_none() && whole.candidate_probs.is_none() {
            return Err(absent("output", "there is nothing to compare with"));
        }
        let users = (0..whole.users).map(|at| whole.user(at, config)).collect::<Result<_, _>>()?;
        Ok(Self { users, tasks: config.num_tasks })
    }

    /// History rows and candidates in all.
    pub(super) fn size(&self) -> (usize, usize) {
        self.users
            .iter()
            .fold((0, 0), |(rows, candidates), user| (rows + user.items.len(), candidates + user.candidates.len()))
    }
}

impl User {
    pub(super) fn window(&self) -> Window<'_> {
        Window { items: &self.items, actions: &self.actions, times: &self.times }
    }
}

impl Content {
    /// Absent where the file records none.
    pub(super) fn parse(model: &Model, tensors: &Tensors) -> Result<Option<Self>, GoldenError> {
        let Some(vectors) = floats(tensors, "content")? else { return Ok(None) };
        let vectors = vectors.held("content", &[None, Some(model.content_dim())])?;
        let form = [Some(vectors.shape[0]), Some(model.config().item_embedding_dim)];
        let rows = floats(tensors, "content_rows")?.ok_or_else(|| absent("content_rows", "[K, D_item]"))?;
        Ok(Some(Self { vectors, rows: rows.held("content_rows", &form)? }))
    }

    /// Each content vector with its embedding.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&[f32], &[f32])> {
        let of = |t: &'_ Golden<f32>| t.shape[1].max(1);
        self.vectors.data.chunks_exact(of(&self.vectors)).zip(self.rows.data.chunks_exact(of(&self.rows)))
    }
}

impl StuRows {
    pub(super) fn parse(config: &StuConfig, tensors: &Tensors) -> Result<Self, GoldenError> {
        let form = [Some(config.rows()), Some(config.embedding_dim)];
        let rows = |name: &'static str| {
            floats(tensors, name)?.ok_or_else(|| absent(name, "[history_len + num_candidates, D]"))?.held(name, &form)
        };
        Ok(Self { input: rows("input_rows")?.data, output: rows("output_rows")?.data })
    }
}
