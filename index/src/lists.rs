//! Inverted lists over the frozen rows: training, adding, and one search with its exact re-ranking.

use crate::ffi::Ivf;
use crate::frozen::Frozen;
use crate::options::OVERFETCH_MAX;
use crate::plan::{DEPTHS, Shape};
use crate::rows::Rows;
use crate::scan::Picked;
use crate::topk::TopK;
use crate::{Bitmap, IndexError, Kind, ffi};

/// Training vectors for each list. FAISS takes up to 256; half of that trains twice as fast and costs no measurable recall.
const TRAIN_ROWS_PER_LIST: usize = 128;
/// FAISS warns below 39 training vectors a list: there are then fewer lists.
const ROWS_PER_LIST_MIN: usize = 39;
/// Training vectors wanted for the 16 entries of a 4-bit code book: FAISS's floor of 39 for each entry, and what it makes use of.
const CODE_ROWS_MIN: usize = 39 * 16;
const CODE_ROWS: usize = 256 * 16;
/// Rows added by one FAISS call.
const ADD_ROWS: usize = 8192;

/// A trained FAISS index that holds every frozen row under its slot as label.
#[derive(Debug)]
pub(crate) struct Lists {
    ivf: Ivf,
    /// Trained, still without vectors: the next merge starts from it instead of training again.
    template: Vec<u8>,
    /// Rows there were at training: when the index has outgrown them, it is trained again.
    trained_rows: usize,
    compressed: bool,
    tuned: Tuned,
}

/// What a build may use.
pub(crate) struct BuildOptions<'a> {
    pub(crate) kind: Kind,
    pub(crate) rows_min: usize,
    pub(crate) threads: u16,
    /// Recall that the number of lists to visit is tuned for; none where the caller has set that number.
    pub(crate) recall_min: Option<f32>,
    /// Candidates fetched for each result when codes are compressed.
    pub(crate) overfetch: usize,
    /// Lists whose training may be used again.
    pub(crate) former: Option<&'a Lists>,
    /// Asked between steps: true stops the build.
    pub(crate) stop: &'a dyn Fn() -> bool,
}

impl Lists {
    /// Lists over `rows`, or `None` where exact search is the better index: the exact kind, or few rows.
    pub(crate) fn build(rows: &Rows, slots: &[u32], options: &BuildOptions<'_>) -> Result<Option<Self>, IndexError> {
        let (nlist, code) = match options.kind {
            Kind::Exact => return Ok(None),
            Kind::IvfFlat { nlist } => (nlist, None),
            Kind::IvfPq { nlist, m } => (nlist, Some(m)),
        };
        let nlist = list_count(nlist, rows.len());
        let least = if code.is_some() { CODE_ROWS_MIN } else { 0 };
        if rows.len() < options.rows_min.max(least) || nlist == 0 {
            return Ok(None);
        }
        ffi::limit_threads(options.threads);
        let built = Self::build_lists(rows, slots, nlist, code, options);
        ffi::limit_threads(1);
        built.map(Some)
    }

    fn build_lists(
        rows: &Rows,
        slots: &[u32],
        nlist: usize,
        code: Option<u32>,
        options: &BuildOptions<'_>,
    ) -> Result<Self, IndexError> {
        let (template, trained_rows) = match options.former.filter(|former| former.training_fits(rows.len(), nlist)) {
            Some(former) => (former.template.clone(), former.trained_rows),
            None => (train(rows, nlist, code)?, rows.len()),
        };
        let mut ivf = Ivf::from_bytes(&template)?;
        let mut packed = Vec::with_capacity(ADD_ROWS.min(rows.len()) * rows.dim());
        let mut labels = Vec::with_capacity(ADD_ROWS.min(rows.len()));
        for from in (0..rows.len()).step_by(ADD_ROWS) {
            if (options.stop)() {
                return Err(IndexError::Faiss { call: "add_with_ids", message: "the build was stopped".to_owned() });
            }
            let to = (from + ADD_ROWS).min(rows.len());
            packed.clear();
            labels.clear();
            rows.copy_packed(from, to, &mut packed);
            labels.extend(slots[from..to].iter().map(|&slot| i64::from(slot)));
            ivf.add(&packed, &labels)?;
        }
        Ok(Self { ivf, template, trained_rows, compressed: code.is_some(), tuned: Tuned::default() })
    }

    /// Whether lists trained then serve `rows` now: the count has not doubled or halved.
    fn training_fits(&self, rows: usize, nlist: usize) -> bool {
        !self.template.is_empty()
            && rows <= self.trained_rows * 2
            && rows * 2 >= self.trained_rows
            && nlist <= self.ivf.nlist() * 2
    }

    /// Takes up what was saved, if it fits the frozen rows it comes with.
    pub(crate) fn restore(
        saved: &[u8],
        kind: Kind,
        (rows, dim): (usize, usize),
        tuned: Tuned,
    ) -> Result<Self, IndexError> {
        let ivf = Ivf::from_bytes(saved)?;
        if ivf.dim() != dim || ivf.len() != rows || !ivf.is_trained() || ivf.nlist() == 0 {
            return Err(IndexError::Faiss {
                call: "read_index",
                message: "it does not fit the saved vectors".to_owned(),
            });
        }
        let compressed = matches!(kind, Kind::IvfPq { .. });
        let mut lists = Self { ivf, template: Vec::new(), trained_rows: 0, compressed, tuned: Tuned::default() };
        lists.set_tuned(tuned);
        Ok(lists)
    }

    /// For saving.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, IndexError> {
        self.ivf.to_bytes()
    }

    /// What the planner needs to know.
    pub(crate) fn shape(&self) -> Shape {
        Shape {
            rows: self.ivf.len(),
            nlist: self.ivf.nlist(),
            compressed: self.compressed,
            probes: self.tuned.probes,
            overfetch: self.tuned.overfetch,
        }
    }

    /// What was tuned.
    pub(crate) fn tuned(&self) -> Tuned {
        self.tuned
    }

    /// Takes up what was tuned.
    pub(crate) fn set_tuned(&mut self, tuned: Tuned) {
        let nlist = self.ivf.nlist();
        self.tuned = Tuned {
            probes: tuned.probes.map(|probes| probes.min(nlist)),
            overfetch: tuned.overfetch.min(OVERFETCH_MAX),
        };
    }

    /// Fetches up to `fetch` slots of `mask` from `nprobe` lists and offers each to `top` under its exact score.
    pub(crate) fn search(&self, frozen: &Frozen, probe: &Probe<'_>, top: &mut TopK) -> Result<(), IndexError> {
        let mut labels = vec![-1_i64; probe.fetch];
        let mut scores = vec![0.0_f32; probe.fetch];
        // With every row eligible the bitmap would only cost.
        let selector = (probe.eligible < self.ivf.len()).then_some(probe.mask);
        let plain = &probe.query[..self.ivf.dim()];
        self.ivf.search(plain, probe.nprobe, selector, &mut scores, &mut labels)?;
        let mut picked = Picked::default();
        for part in labels.chunks(Picked::CAPACITY) {
            picked.clear();
            for &label in part {
                // -1 is an empty place. The mask is asked again: no answer of the library's is taken on trust.
                let Ok(slot) = u32::try_from(label) else { continue };
                let row = frozen.row_of(slot);
                if row != crate::frozen::NO_ROW && probe.mask.get(slot) {
                    picked.add(slot, row);
                }
            }
            picked.score_into(probe.query, frozen.rows(), top);
        }
        Ok(())
    }
}

/// The search effort found at a build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tuned {
    /// Lists to visit for each of [`depths`](crate::plan::depths); 0 if not tuned.
    pub(crate) probes: [usize; DEPTHS],
    /// Candidates to fetch for each result; 0 if not tuned.
    pub(crate) overfetch: usize,
}

/// One search of the lists.
pub(crate) struct Probe<'a> {
    /// Padded query.
    pub(crate) query: &'a [f32],
    /// Slots that may be returned.
    pub(crate) mask: &'a Bitmap,
    /// How many of the rows those are.
    pub(crate) eligible: usize,
    /// Lists to visit.
    pub(crate) nprobe: usize,
    /// Candidates to fetch.
    pub(crate) fetch: usize,
}

/// Lists to make for `rows`: what was asked, or twice the square root; never so many that one would train on too few vectors.
fn list_count(asked: u32, rows: usize) -> usize {
    let wanted = if asked == 0 { 2 * rows.isqrt() } else { asked as usize };
    wanted.min(rows / ROWS_PER_LIST_MIN)
}

/// Trains an empty index on evenly spaced rows and gives its bytes. FAISS's clustering is seeded: equal rows give equal lists.
fn train(rows: &Rows, nlist: usize, code: Option<u32>) -> Result<Vec<u8>, IndexError> {
    let factory = match code {
        None => format!("IVF{nlist},Flat"),
        Some(m) => format!("IVF{nlist},PQ{m}x4fs"),
    };
    let for_code = if code.is_some() { CODE_ROWS } else { 0 };
    let wanted = (nlist * TRAIN_ROWS_PER_LIST).max(for_code).min(rows.len());
    let mut packed = Vec::with_capacity(wanted * rows.dim());
    for index in 0..wanted {
        packed.extend_from_slice(rows.row(index * rows.len() / wanted));
    }
    let mut ivf = Ivf::new(rows.dim(), &factory)?;
    ivf.train(&packed)?;
    ivf.to_bytes()
}
