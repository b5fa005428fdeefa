//! How the rows of jobs are put into a batch, and which pages they get.

use std::sync::Arc;

use longbow_kernels::cuda::{PAGE_ROWS, PageCopy, Rows};

use super::CudaEncoder;
use super::pages::Page;
use super::pass::Batch;
use crate::encoder::EncodeError;
use crate::state::Encoded;
use crate::window::Window;

/// Rows of one job in a pass: what to keep once the pass has worked.
pub(super) struct Placed {
    pub(super) pages: Vec<Arc<Page>>,
    pub(super) rows: usize,
    pub(super) next_time: i64,
}

impl CudaEncoder {
    /// Adds rows `first..first + next_times.len()` of a window to the batch, whose K/V go to pages: those of `held`, the
    /// last of them copied where somebody else reads it (or where `fresh` asks for it), and new ones.
    pub(super) fn place(
        &self,
        batch: &mut Batch,
        window: &Window<'_>,
        (first, next_times): (usize, &[i64]),
        (held, fresh): (&[Arc<Page>], bool),
    ) -> Result<Placed, EncodeError> {
        let end = first + next_times.len();
        let take = || self.pool.take().map_err(|error| self.fault(&error));
        let mut pages = held[..first.div_ceil(PAGE_ROWS)].to_vec();
        let partial = first % PAGE_ROWS;
        if let Some(last) = pages.last_mut().filter(|_| partial > 0) {
            // Two holders are the state itself and the list made above.
            if fresh || Arc::strong_count(last) > 2 {
                let copy = take()?;
                let rows = i32::try_from(partial).unwrap_or(0);
                batch.copies.push(PageCopy { from: last.index(), to: copy.index(), rows, reserved: 0 });
                *last = copy;
            }
        }
        while pages.len() < end.div_ceil(PAGE_ROWS) {
            pages.push(take()?);
        }
        let job = Rows {
            first: batch.items.len(),
            count: end - first,
            position: first,
            keys: end,
            table: batch.tables.len(),
            causal: true,
        };
        batch.jobs.push(job);
        batch.tables.extend(pages.iter().map(|page| page.index()));
        for row in first..end {
            let inside = i32::try_from(row % PAGE_ROWS).unwrap_or(0);
            batch.slots.push(pages[row / PAGE_ROWS].index() * 64 + inside);
            batch.positions.push(i32::try_from(row).unwrap_or(i32::MAX));
        }
        batch.items.extend_from_slice(&window.items[first..end]);
        let plain = self.weights.config.action_embedding_dim == 0;
        batch.actions.extend(window.actions[first..end].iter().map(|&action| if plain { 0 } else { action }));
        batch.times.extend_from_slice(&window.times[first..end]);
        batch.next_times.extend_from_slice(next_times);
        Ok(Placed { pages, rows: end, next_time: next_times.last().copied().unwrap_or_default() })
    }

    /// Adds candidates of one job to the batch.
    pub(super) fn place_candidates(&self, batch: &mut Batch, encoded: &Encoded, candidates: &[u32]) {
        let (events, pages) = (encoded.events(), encoded.device.as_ref());
        let count = candidates.len();
        let (first, table) = (batch.items.len(), batch.tables.len());
        batch.jobs.push(Rows { first, count, position: events, keys: events, table, causal: false });
        batch.tables.extend(pages.into_iter().flat_map(|pages| pages.pages.iter().map(|page| page.index())));
        batch.items.extend_from_slice(candidates);
        batch.actions.extend(std::iter::repeat_n(0, count));
        batch.positions.extend(std::iter::repeat_n(i32::try_from(events).unwrap_or(i32::MAX), count));
        batch.slots.extend(std::iter::repeat_n(-1, count));
        batch.times.extend(std::iter::repeat_n(encoded.query_time, count));
        batch.next_times.extend(std::iter::repeat_n(encoded.query_time, count));
    }
}
