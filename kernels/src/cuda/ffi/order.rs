//! Points in streams that others wait for: how uploads and work stay in order without the host in between.
#![allow(unsafe_code, reason = "an FFI file: each block says why it is sound")]

use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::{Buffer, Device, Pinned, Plain};
use crate::cuda::error::{CudaError, Wrap};

/// A point in a stream. One that was never reached for is no wait.
#[derive(Debug)]
pub struct Mark {
    device: Arc<Device>,
    handle: sys::CUevent,
}

// SAFETY: a handle that the driver locks itself; the device binds its context first.
unsafe impl Send for Mark {}

impl Device {
    fn make_mark(self: &Arc<Self>, flags: sys::CUevent_flags) -> Result<Mark, CudaError> {
        self.bind()?;
        let handle = result::event::create(flags).wrap("make an event")?;
        Ok(Mark { device: Arc::clone(self), handle })
    }

    /// A mark to put into this device's streams.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn mark(self: &Arc<Self>) -> Result<Mark, CudaError> {
        self.make_mark(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    /// A mark that notes the time at which it is reached.
    pub(super) fn clock(self: &Arc<Self>) -> Result<Mark, CudaError> {
        self.make_mark(sys::CUevent_flags::CU_EVENT_DEFAULT)
    }

    /// The mark stands for all work that was started until now.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn reach(&self, mark: &Mark) -> Result<(), CudaError> {
        self.bind()?;
        // SAFETY: event and stream live through the call.
        unsafe { result::event::record(mark.handle, self.stream) }.wrap("mark a point of the work")
    }

    /// Uploads beside the work that runs; `arrived` then stands for it. `from` must stay as it is, and nothing else may use
    /// `to`, until that mark is reached, which the exclusive owner of all three sees to.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn upload_beside<T: Plain>(
        &self,
        to: &Buffer<T>,
        from: &Pinned<T>,
        len: usize,
        arrived: &Mark,
    ) -> Result<(), CudaError> {
        assert!(len <= to.len() && len <= from.as_slice().len(), "an upload past the end");
        self.bind()?;
        // SAFETY: both hold `len` values; the pinned memory is freed after a synchronisation, the buffer waits for its users.
        unsafe { result::memcpy_htod_async(to.region().address, &from.as_slice()[..len], self.uploads) }
            .wrap("copy to the device")?;
        // SAFETY: event and stream live through the call.
        unsafe { result::event::record(arrived.handle, self.uploads) }.wrap("mark an upload")
    }

    /// Work that is started from now on waits for the mark.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn wait_for(&self, mark: &Mark) -> Result<(), CudaError> {
        self.bind()?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: event and stream live through the call.
        unsafe { result::stream::wait_event(self.stream, mark.handle, flags) }.wrap("wait for an upload")
    }
}

impl Mark {
    /// Waits, here, until it is reached; errors of kernels before it show.
    ///
    /// # Errors
    /// [`CudaError`] of whatever ran.
    pub fn wait(&self) -> Result<(), CudaError> {
        self.device.bind()?;
        // SAFETY: the event lives as long as `self`.
        unsafe { result::event::synchronize(self.handle) }.wrap("run on the device")
    }

    /// Milliseconds from `began` to this mark, once it is reached; both are from [`Device::clock`].
    pub(super) fn since(&self, began: &Self) -> Result<f32, CudaError> {
        self.wait()?;
        // SAFETY: both events have been recorded and have happened.
        unsafe { result::event::elapsed(began.handle, self.handle) }.wrap("read the time")
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        let _ = self.device.bind();
        // SAFETY: made once, destroyed once; the driver keeps what streams still wait for.
        let _ = unsafe { result::event::destroy(self.handle) };
    }
}
