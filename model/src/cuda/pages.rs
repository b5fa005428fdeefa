//! Pages of device memory and who holds them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use longbow_kernels::cuda::{CudaError, Device, HeadShape, PAGE_ROWS, PageStore};

use super::tier::HostPage;

/// All pages of one encoder. A page goes back when its last holder drops it; since all work runs in order on one stream,
/// whoever gets it next writes it after its last reader has read it.
#[derive(Debug)]
pub struct PagePool {
    store: PageStore,
    free: Mutex<Vec<u32>>,
    lost: AtomicBool,
    page_bytes: usize,
}

/// One page.
#[derive(Debug)]
pub(crate) struct Page {
    index: u32,
    pool: Arc<PagePool>,
}

impl PagePool {
    pub(crate) fn new(
        device: &Arc<Device>,
        shape: HeadShape,
        layers: usize,
        bytes: usize,
    ) -> Result<Arc<Self>, CudaError> {
        let page_bytes = PageStore::page_bytes(shape, layers);
        let pages = (bytes / page_bytes).max(1);
        let store = PageStore::new(device, shape, layers, pages)?;
        // Taken from the end: low pages first.
        let free = (0..u32::try_from(pages).unwrap_or(u32::MAX)).rev().collect();
        Ok(Arc::new(Self { store, free: Mutex::new(free), lost: AtomicBool::new(false), page_bytes }))
    }

    /// The pages' memory.
    #[must_use]
    pub fn store(&self) -> &PageStore {
        &self.store
    }

    /// Bytes of one page.
    pub(crate) fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Pages that nobody holds.
    #[must_use]
    pub fn free_pages(&self) -> usize {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(crate) fn take(self: &Arc<Self>) -> Result<Arc<Page>, CudaError> {
        let index = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let index = index.ok_or(CudaError::OutOfMemory { bytes: self.page_bytes })?;
        Ok(Arc::new(Page { index, pool: Arc::clone(self) }))
    }

    /// Marks everything in the pool as gone.
    pub(crate) fn lose(&self) {
        self.lost.store(true, Ordering::Release);
    }

    pub(crate) fn lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }
}

impl Page {
    /// Its place in the pool.
    pub(crate) fn place(&self) -> usize {
        self.index as usize
    }

    /// Its number in the pool.
    pub(crate) fn index(&self) -> i32 {
        i32::try_from(self.index).unwrap_or(i32::MAX)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.pool.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.index);
    }
}

/// The pages of one history, oldest first. Clones share them; a page that is shared is copied before rows are added.
#[derive(Debug, Clone)]
pub(crate) struct DevicePages {
    pub(super) pool: Arc<PagePool>,
    pub(super) pages: Vec<Arc<Page>>,
    /// The same pages in host memory, while they are there instead.
    pub(super) parked: Vec<Arc<HostPage>>,
}

impl DevicePages {
    pub(super) fn new(pool: &Arc<PagePool>) -> Self {
        Self { pool: Arc::clone(pool), pages: Vec::new(), parked: Vec::new() }
    }

    pub(crate) fn bytes(&self) -> usize {
        (self.pages.len() + self.parked.len()) * self.pool.page_bytes
    }

    pub(crate) fn lost(&self) -> bool {
        self.pool.lost()
    }

    pub(crate) fn truncate(&mut self, rows: usize) {
        self.pages.truncate(rows.div_ceil(PAGE_ROWS));
        self.parked.truncate(rows.div_ceil(PAGE_ROWS));
    }
}
