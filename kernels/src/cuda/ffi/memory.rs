//! Memory of the device and page-locked memory of the host, and copies between them. Copies of nothing are no calls: what a
//! driver makes of an address that nothing lies at is its own affair.
#![allow(unsafe_code, reason = "an FFI file: each block says why it is sound")]

use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::{Device, Plain};
use crate::cuda::error::{CudaError, Wrap};

impl Device {
    /// Free and total bytes of device memory.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn memory(&self) -> Result<(usize, usize), CudaError> {
        self.bind()?;
        result::mem_get_info().wrap("read the free memory")
    }

    /// Memory for `len` values, zeroed.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`].
    pub fn alloc<T: Plain>(self: &Arc<Self>, len: usize) -> Result<Buffer<T>, CudaError> {
        self.bind()?;
        let bytes = (len * size_of::<T>()).max(16);
        // SAFETY: the memory is zeroed before anything reads it, and any bits are a `T`.
        let pointer = unsafe { result::malloc_sync(bytes) }.map_err(|e| CudaError::of_alloc(e, bytes))?;
        let buffer = Buffer { device: Arc::clone(self), pointer, len, kind: PhantomData };
        // SAFETY: `bytes` bytes lie at `pointer`.
        unsafe { result::memset_d8_async(pointer, 0, bytes, self.stream) }.wrap("clear memory")?;
        Ok(buffer)
    }

    /// Host memory that the device copies from and to without a detour.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`].
    pub fn pinned<T: Plain>(self: &Arc<Self>, len: usize) -> Result<Pinned<T>, CudaError> {
        self.bind()?;
        let bytes = (len * size_of::<T>()).max(16);
        // SAFETY: written to zero below, and any bits are a `T`. Flag 0: cached, so that reading it is fast.
        let pointer = unsafe { result::malloc_host(bytes, 0) }.map_err(|e| CudaError::of_alloc(e, bytes))?;
        // SAFETY: `bytes` bytes lie at `pointer`.
        unsafe { std::ptr::write_bytes(pointer.cast::<u8>(), 0, bytes) };
        Ok(Pinned { device: Arc::clone(self), pointer: pointer.cast(), len })
    }

    /// Copies from pinned host memory in stream order; `from` must stay as it is until the next synchronisation, which
    /// the exclusive owner of both sees to.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn upload<T: Plain>(&self, to: &Buffer<T>, from: &Pinned<T>, len: usize) -> Result<(), CudaError> {
        assert!(len <= to.len && len <= from.len, "an upload past the end");
        if len == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: both hold `len` values, and the pinned memory outlives the copy: it is freed after a synchronisation.
        unsafe { result::memcpy_htod_async(to.pointer, &from.as_slice()[..len], self.stream) }
            .wrap("copy to the device")
    }

    /// Copies a slice to values `at..` and waits until it is there.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn upload_slice<T: Plain>(&self, to: &Buffer<T>, at: usize, from: &[T]) -> Result<(), CudaError> {
        assert!(at + from.len() <= to.len, "an upload past the end");
        if from.is_empty() {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the range lies inside the buffer; the copy is over before `from` can change.
        unsafe { result::memcpy_htod_async(to.pointer + (at * size_of::<T>()) as u64, from, self.stream) }
            .wrap("copy to the device")?;
        self.synchronize()
    }

    /// Copies the first `len` values to pinned memory in stream order; they are there after the next synchronisation.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn download<T: Plain>(&self, from: &Buffer<T>, to: &mut Pinned<T>, len: usize) -> Result<(), CudaError> {
        assert!(len <= to.len && len <= from.len, "a download past the end");
        if len == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: both hold `len` values, and the pinned memory is freed only after a synchronisation.
        unsafe { result::memcpy_dtoh_async(&mut to.as_mut_slice()[..len], from.pointer, self.stream) }
            .wrap("copy from the device")
    }

    /// Copies `len` values from `from[at.0..]` to `to[at.1..]` in page-locked memory, in stream order.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn copy_out<T: Plain>(
        &self,
        from: &Buffer<T>,
        to: &mut Pinned<T>,
        at: (usize, usize),
        len: usize,
    ) -> Result<(), CudaError> {
        assert!(at.0 + len <= from.len && at.1 + len <= to.len, "a copy past the end");
        if len == 0 {
            return Ok(());
        }
        self.bind()?;
        let address = from.pointer + (at.0 * size_of::<T>()) as u64;
        // SAFETY: both ranges lie inside, and the pinned memory is freed only after a synchronisation.
        unsafe { result::memcpy_dtoh_async(&mut to.as_mut_slice()[at.1..][..len], address, self.stream) }
            .wrap("copy from the device")
    }

    /// Copies `len` values from `from[at.0..]` in page-locked memory to `to[at.1..]`, in stream order: `from` must stay as it is
    /// until then, which holds where only this stream writes it.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn copy_in<T: Plain>(
        &self,
        from: &Pinned<T>,
        to: &Buffer<T>,
        at: (usize, usize),
        len: usize,
    ) -> Result<(), CudaError> {
        assert!(at.0 + len <= from.len && at.1 + len <= to.len, "a copy past the end");
        if len == 0 {
            return Ok(());
        }
        self.bind()?;
        let address = to.pointer + (at.1 * size_of::<T>()) as u64;
        // SAFETY: both ranges lie inside, and the pinned memory is freed only after a synchronisation.
        unsafe { result::memcpy_htod_async(address, &from.as_slice()[at.0..][..len], self.stream) }
            .wrap("copy to the device")
    }

    /// Sets every byte of the first `len` values.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn fill<T: Plain>(&self, buffer: &Buffer<T>, len: usize, byte: u8) -> Result<(), CudaError> {
        assert!(len <= buffer.len, "a fill past the end");
        if len == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the range lies inside the buffer.
        unsafe { result::memset_d8_async(buffer.pointer, byte, len * size_of::<T>(), self.stream) }.wrap("set memory")
    }

    /// Copies within the device, in stream order.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn copy<T: Plain>(&self, from: &Buffer<T>, to: &Buffer<T>, len: usize) -> Result<(), CudaError> {
        assert!(len <= from.len && len <= to.len, "a copy past the end");
        if len == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: both hold `len` values.
        unsafe { result::memcpy_dtod_async(to.pointer, from.pointer, len * size_of::<T>(), self.stream) }
            .wrap("copy on the device")
    }
}

/// Device memory of `len` values.
#[derive(Debug)]
pub struct Buffer<T: Plain> {
    device: Arc<Device>,
    pointer: sys::CUdeviceptr,
    len: usize,
    kind: PhantomData<T>,
}

impl<T: Plain> Buffer<T> {
    /// All of it.
    #[must_use]
    pub fn region(&self) -> Region<'_, T> {
        Region { address: self.pointer, len: self.len, kind: PhantomData }
    }

    /// Values `at..at + len` as `U`s.
    ///
    /// # Panics
    /// Where they do not lie inside, or not on a multiple of 16 bytes.
    #[must_use]
    pub fn part<U: Plain>(&self, at: usize, len: usize) -> Region<'_, U> {
        let (from, bytes) = (at * size_of::<T>(), len * size_of::<U>());
        assert!(from + bytes <= self.len * size_of::<T>(), "{bytes} bytes at {from} lie past the end");
        assert!(from % 16 == 0, "byte {from} is not a multiple of 16");
        Region { address: self.pointer + from as u64, len, kind: PhantomData }
    }

    /// Values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Consecutive values of device memory, borrowed from their buffer.
#[derive(Debug, Clone, Copy)]
pub struct Region<'a, T> {
    pub(in crate::cuda) address: u64,
    pub(in crate::cuda) len: usize,
    kind: PhantomData<&'a T>,
}

impl<T: Plain> Region<'_, T> {
    /// No values: for arguments that a kernel does not look at.
    #[must_use]
    pub fn none() -> Self {
        Self { address: 0, len: 0, kind: PhantomData }
    }

    /// Values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<T: Plain> Drop for Buffer<T> {
    fn drop(&mut self) {
        // `cuMemFree` may wait for work that uses the memory, and need not.
        let _ = self.device.synchronize();
        // SAFETY: allocated by `alloc`, freed once, and nothing that was started uses it any more.
        let _ = unsafe { result::free_sync(self.pointer) };
    }
}

/// Page-locked host memory of `len` values.
#[derive(Debug)]
pub struct Pinned<T: Plain> {
    device: Arc<Device>,
    pointer: *mut T,
    len: usize,
}

// SAFETY: plain memory with one owner.
unsafe impl<T: Plain> Send for Pinned<T> {}

impl<T: Plain> Pinned<T> {
    /// The values.
    #[must_use]
    pub fn as_slice(&self) -> &[T] {
        // SAFETY: `len` initialised values lie there while `self` lives.
        unsafe { std::slice::from_raw_parts(self.pointer, self.len) }
    }

    /// The values, to write.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.len) }
    }
}

impl<T: Plain> Drop for Pinned<T> {
    fn drop(&mut self) {
        let _ = self.device.synchronize();
        // SAFETY: allocated by `pinned`, freed once, and no copy is under way.
        let _ = unsafe { result::free_host(self.pointer.cast()) };
    }
}

/// The bytes of values, to put into a staging buffer of bytes.
#[must_use]
pub fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: any `Plain` value may be read as bytes; the struct types have no padding (their sizes are asserted).
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}
