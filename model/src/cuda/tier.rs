//! Page-locked host memory for the K/V of users whom the device has no room for.
//!
//! All copies run on the stream of the work. So a page of the device may go to somebody else, and one of the host too, as soon
//! as its copy has been started: whoever writes it next does so after that copy.

use std::sync::{Arc, Mutex, PoisonError};

use longbow_kernels::cuda::{CudaError, Device, PAGE_ROWS, PageStore, Pinned};

use super::CudaEncoder;
use super::pages::{DevicePages, Page};
use crate::encoder::{EncodeError, HostTier};
use crate::state::UserState;

/// Pages that the rate of copies is measured with, and how often.
const MEASURED_PAGES: usize = 64;
const MEASUREMENTS: usize = 5;

/// Pages of host memory that nobody holds.
#[derive(Debug)]
struct Slots(Mutex<Vec<u32>>);

/// One page in host memory.
#[derive(Debug)]
pub(super) struct HostPage {
    slot: u32,
    slots: Arc<Slots>,
}

impl Drop for HostPage {
    fn drop(&mut self) {
        self.slots.0.lock().unwrap_or_else(PoisonError::into_inner).push(self.slot);
    }
}

/// The memory itself. Nothing on the host reads or writes it.
#[derive(Debug)]
pub(super) struct HostStore {
    numbers: Pinned<u16>,
    times: Pinned<i64>,
    slots: Arc<Slots>,
    tier: HostTier,
}

impl HostStore {
    /// Memory for so many pages of so many bytes, and the rate of copies from it to `store`, whose pages nobody may hold.
    pub(super) fn new(
        device: &Arc<Device>,
        store: &PageStore,
        (pages, page_bytes): (usize, usize),
    ) -> Result<Self, CudaError> {
        let free = (0..u32::try_from(pages).unwrap_or(u32::MAX)).rev().collect();
        let mut made = Self {
            numbers: device.pinned(pages * store.page_numbers())?,
            times: device.pinned(pages * PAGE_ROWS)?,
            slots: Arc::new(Slots(Mutex::new(free))),
            tier: HostTier { bytes: pages * page_bytes, rate: 0.0 },
        };
        let some = pages.min(store.pages()).min(MEASURED_PAGES);
        let mut best = f64::INFINITY;
        for _ in 0..MEASUREMENTS {
            // Zeros over zeros; page by page, as a state comes back.
            let ms = device.time(|| (0..some).try_for_each(|page| made.copy_in(device, store, (page, page))))?;
            best = best.min(f64::from(ms).max(1e-3));
        }
        #[expect(clippy::cast_precision_loss, reason = "64 pages are far below 2^52 bytes")]
        let measured = (some * page_bytes) as f64 / best * 1e3;
        made.tier.rate = measured;
        Ok(made)
    }

    pub(super) fn tier(&self) -> HostTier {
        self.tier
    }

    /// From page `from` of the host to page `to` of the device.
    fn copy_in(&self, device: &Device, store: &PageStore, (from, to): (usize, usize)) -> Result<(), CudaError> {
        let numbers = store.page_numbers();
        device.copy_in(&self.numbers, store.numbers(), (from * numbers, to * numbers), numbers)?;
        device.copy_in(&self.times, store.times_buffer(), (from * PAGE_ROWS, to * PAGE_ROWS), PAGE_ROWS)
    }

    fn copy_out(&mut self, device: &Device, store: &PageStore, (from, to): (usize, usize)) -> Result<(), CudaError> {
        let numbers = store.page_numbers();
        device.copy_out(store.numbers(), &mut self.numbers, (from * numbers, to * numbers), numbers)?;
        device.copy_out(store.times_buffer(), &mut self.times, (from * PAGE_ROWS, to * PAGE_ROWS), PAGE_ROWS)
    }

    /// Pages that nobody holds, all or none.
    fn take(&self, count: usize) -> Option<Vec<Arc<HostPage>>> {
        let mut free = self.slots.0.lock().unwrap_or_else(PoisonError::into_inner);
        let from = free.len().checked_sub(count)?;
        let slots = free.split_off(from);
        Some(slots.into_iter().map(|slot| Arc::new(HostPage { slot, slots: Arc::clone(&self.slots) })).collect())
    }

    /// Pages that nobody holds.
    pub(super) fn free(&self) -> usize {
        self.slots.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl CudaEncoder {
    /// Sets host memory aside for states that the device has no room for ([`Encoder::park`](crate::Encoder::park)), before
    /// there are any states; 0 bytes: none.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`], and nothing has changed.
    pub fn set_host_tier(&mut self, bytes: usize) -> Result<(), CudaError> {
        let store = self.pool.store();
        if self.pool.free_pages() != store.pages() {
            return Err(CudaError::Call {
                doing: "set host memory aside",
                code: "there are states already".to_owned(),
            });
        }
        let page_bytes = self.pool.page_bytes();
        let pages = bytes / page_bytes;
        self.host =
            if pages == 0 { None } else { Some(HostStore::new(self.engine.device(), store, (pages, page_bytes))?) };
        Ok(())
    }

    /// Pages of host memory that no parked state holds.
    #[must_use]
    pub fn host_pages_free(&self) -> usize {
        self.host.as_ref().map_or(0, HostStore::free)
    }

    pub(super) fn park_pages(&mut self, state: &mut UserState) -> Result<bool, EncodeError> {
        let held = self.holds(state.device.as_ref());
        let (Some(host), Some(pages), true) = (&mut self.host, &mut state.device, held) else { return Ok(false) };
        let Some(taken) = host.take(pages.pages.len()) else { return Ok(false) };
        let device = self.engine.device();
        let copied = pages
            .pages
            .iter()
            .zip(&taken)
            .try_for_each(|(page, to)| host.copy_out(device, pages.pool.store(), (page.place(), to.slot as usize)));
        if let Err(error) = copied {
            // What was started must end before its pages are given to others.
            let _ = device.synchronize();
            return Err(self.fault(&error));
        }
        pages.pages.clear();
        pages.parked = taken;
        Ok(true)
    }

    pub(super) fn unpark_pages(&mut self, state: &mut UserState) -> Result<(), EncodeError> {
        let Some(parked) = state.device.as_ref().filter(|pages| !pages.parked.is_empty()) else { return Ok(()) };
        let ours = Arc::ptr_eq(&parked.pool, &self.pool) && !parked.lost();
        let Some(host) = self.host.as_ref().filter(|_| ours) else {
            return Err(EncodeError::Kernel("the state was not parked by this encoder".to_owned()));
        };
        let pages: Result<Vec<Arc<Page>>, CudaError> = parked.parked.iter().map(|_| self.pool.take()).collect();
        let device = self.engine.device();
        let copied = pages.and_then(|pages| {
            let both = parked.parked.iter().zip(&pages);
            let copied = both
                .map(|(from, page)| (from.slot as usize, page.place()))
                .try_for_each(|at| host.copy_in(device, self.pool.store(), at));
            // The caller reckons with what this takes, and not with the next pass waiting for it.
            copied.and(device.synchronize()).map(|()| pages)
        });
        let pages = copied.map_err(|error| self.fault(&error))?;
        state.device = Some(DevicePages { pages, ..DevicePages::new(&self.pool) });
        Ok(())
    }
}
