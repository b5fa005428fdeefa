//! Everything that depends on the model, as one unit that is switched as one.
//!
//! A request takes the generation once and keeps it to its end, so that what it retrieves, scores and reports is of one
//! model. A generation ends after its last request: [`crate::app::Models`] holds it until nobody else does, and takes it
//! apart on its own thread.

mod build;
mod rows;

pub(super) use build::{Pace, Prepared, Workshop};
pub use rows::{ItemRows, RowMap, RowsDraft, RowsView};

use crate::batch::{Device, DeviceHandle, UserWindow};
use crate::catalog::Catalog;
use crate::device::Gpu;
use crate::ids::{Id, ItemSlot};
use crate::pipeline::WindowCache;
use crate::plans::FieldError;
use crate::retrieve::{ItemIndex, SearchHandle, SearchThread};
use crate::store::History;
use arc_swap::ArcSwap;
use longbow_model::golden::Report;
use parking_lot::Mutex;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;

/// What is told of a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelFacts {
    /// Its name.
    pub name: String,
    /// Its version, as answers show it.
    pub version: String,
    /// Where it was loaded from.
    pub path: PathBuf,
    /// Items in its own table.
    pub items: usize,
    /// Most events of a history that it reads.
    pub history_events_max: usize,
    /// What it runs on: GPU or CPU, and why.
    pub device: String,
    /// What user states are kept in: "f32" or "bf16".
    pub state_format: String,
    /// What searches the items: GPU or CPU, and why.
    pub search: String,
    /// What its self-check found; absent for a bare file, which has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub self_check: Option<SelfCheck>,
    /// What the same found with user states in bf16, by the bound of such states; absent where the CPU keeps f32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub self_check_bf16: Option<SelfCheck>,
}

/// A self-check that passed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SelfCheck {
    /// Rows compared.
    pub rows: usize,
    /// Largest relative error of a row.
    pub error_max: f64,
    /// Largest that passes.
    pub tolerance: f64,
}

impl From<Report> for SelfCheck {
    fn from(report: Report) -> Self {
        Self {
            rows: report.checks.iter().map(|check| check.rows).sum(),
            error_max: report.error_max(),
            tolerance: report.tolerance,
        }
    }
}

/// One model and everything that was made with it.
pub struct Generation {
    /// The model.
    pub facts: ModelFacts,
    /// Heads of the model.
    pub tasks: usize,
    /// Width of the content vector that a new item brings.
    pub content_dim: usize,
    /// The encoder.
    pub device: DeviceHandle,
    /// The GPU below it, where there is one.
    pub gpu: Gpu,
    /// The search thread.
    pub search: SearchHandle,
    /// What it searches.
    pub index: Arc<ItemIndex>,
    /// Item embeddings by slot.
    pub rows: ItemRows,
    /// Histories as the model reads them.
    pub windows: WindowCache,
    /// Retrieval query of a user without a history: the middle of all items.
    pub everyman: ArcSwap<Box<[f32]>>,
    threads: Mutex<Option<(Device, SearchThread)>>,
}

impl Generation {
    /// A stored history as the model reads it.
    #[must_use]
    pub fn window(&self, user: u128, history: &Arc<History>, catalog: &Catalog) -> Arc<UserWindow> {
        self.windows.get(user, history, catalog, &self.rows)
    }

    /// A history of which nothing is kept.
    #[must_use]
    pub fn translate(&self, catalog: &Catalog, history: &History) -> UserWindow {
        self.windows.limits().translate(self.rows.by_key(catalog), history)
    }

    /// Cosine of a query and each item: the retrieval score of items that a caller named.
    #[must_use]
    pub fn similarities(&self, query: &[f32], items: &[ItemSlot]) -> Vec<f32> {
        let rows = self.rows.view();
        let mut row = vec![0.0; rows.dim()];
        let mut cosine = |item: ItemSlot| {
            if !rows.normalised(item, &mut row) {
                return 0.0;
            }
            row.iter().zip(query).map(|(a, b)| a * b).sum()
        };
        items.iter().map(|&item| cosine(item)).collect()
    }

    /// Brings the index in step with changed items: those of `slots` that are in the catalogue are searched from now on, the
    /// others are not. Their rows must have been published.
    ///
    /// # Errors
    /// The index failed.
    pub fn follow(&self, catalog: &Catalog, slots: impl IntoIterator<Item = ItemSlot>) -> Result<(), String> {
        let rows = self.rows.view();
        let mut row = vec![0.0; rows.dim()];
        for slot in slots {
            let present = catalog.item(slot).is_some();
            let done = match (present, self.index.contains(slot)) {
                (false, true) => self.index.remove(slot).map(drop),
                (true, false) if rows.normalised(slot, &mut row) => self.index.put(slot, &row).map(drop),
                _ => Ok(()),
            };
            done.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Brings rows and index, which are in step with the catalogue `before`, in step with `now`.
    ///
    /// # Errors
    /// An item that the model cannot serve, by id; or the index failed.
    pub fn catch_up(&self, before: &Catalog, now: &Catalog) -> anyhow::Result<()> {
        let mut draft = self.rows.draft();
        for (slot, entry) in now.items() {
            let known = before
                .item(slot)
                .is_some_and(|old| Arc::ptr_eq(&old.record, &entry.record) || old.record.vector == entry.record.vector);
            if !known {
                draft.give_anew(slot, entry.key, &entry.record).map_err(|error| of_item(&entry.record.id, &error))?;
                // Deleted and back with another vector: the index takes it anew below.
                self.index.remove(slot)?;
            }
        }
        self.rows.publish(draft);
        self.follow(now, 1..now.item_slots()).map_err(anyhow::Error::msg)
    }

    /// The middle of all items present, normalised: where a user without a history looks.
    #[must_use]
    pub fn middle(&self, catalog: &Catalog) -> Box<[f32]> {
        middle(catalog, &self.rows.view())
    }

    /// Ends the threads of device and search after what they do now. Blocks until they have ended: nothing of this generation uses
    /// a GPU's driver any more, which must not be used while the process ends.
    pub fn stop(&self) {
        if let Some((device, search)) = self.threads.lock().take() {
            search.join();
            drop(device);
        }
    }
}

/// A start that was given up, too, leaves no thread behind.
impl Drop for Generation {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Why a model cannot serve an item of the catalogue.
fn of_item(id: &Id, error: &FieldError) -> anyhow::Error {
    anyhow::anyhow!("catalogue item `{id}`: {error}")
}

fn middle(catalog: &Catalog, rows: &RowsView) -> Box<[f32]> {
    let dim = rows.dim();
    let (mut sum, mut row) = (vec![0.0_f32; dim], vec![0.0_f32; dim]);
    for (slot, _) in catalog.items() {
        if rows.normalised(slot, &mut row) {
            sum.iter_mut().zip(&row).for_each(|(sum, x)| *sum += x);
        }
    }
    let length = sum.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length > 1e-6 {
        sum.iter_mut().for_each(|x| *x /= length);
    } else if let Some(first) = sum.first_mut() {
        *first = 1.0;
    }
    sum.into()
}
