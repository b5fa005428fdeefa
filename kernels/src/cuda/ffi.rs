//! The only place of the GPU path with `unsafe` (with its parts in `ffi/`): the driver's calls behind handles that free
//! themselves.
//!
//! A [`Device`] has one context and two streams: all work goes to one in order, uploads that shall run beside it to the other,
//! and a [`Mark`] orders the two. Memory is given back only after a synchronisation or in stream order, so nothing on the
//! device outlives what it reads.
#![allow(unsafe_code, reason = "an FFI file: each block says why it is sound")]

use std::ffi::{CString, c_void};
use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::{result, sys};

mod memory;
mod order;
mod peers;

pub use memory::{Buffer, Pinned, Region, bytes_of};
pub use order::Mark;
pub use peers::MatrixProduct;

use super::error::{CudaError, Wrap};
use super::info::{DRIVER_MIN, DeviceInfo};
use super::params::TensorMap;

/// Numbers and parameter structs: any bits are a value, no padding matters, and no host pointers.
///
/// # Safety
/// The type must be `repr(C)` or a primitive without invalid bit patterns.
pub unsafe trait Plain: Copy + Send + 'static {}

macro_rules! plain {
    ($($t:ty),* $(,)?) => { $(
        // SAFETY: a primitive, or a repr(C) struct of primitives.
        unsafe impl Plain for $t {}
    )* };
}
plain!(u8, u16, u32, u64, i8, i32, i64, f32);
plain!(
    super::params::Attend,
    super::params::Copy,
    super::params::Dense,
    super::params::Embed,
    super::params::Heads,
    super::params::PutRows,
    super::params::Sums,
    super::params::TensorMap,
    super::params::TimeBias,
    super::params::TopK,
    super::params::Work,
);

/// Whether the driver library can be loaded at all; every other call panics without it.
pub(super) fn driver_present() -> bool {
    // SAFETY: only tries to open the library by name.
    unsafe { sys::is_culib_present() }
}

/// The devices the driver sees, with the driver's version.
pub(super) fn devices() -> Result<(i32, Vec<DeviceInfo>), CudaError> {
    if !driver_present() {
        return Err(CudaError::NoDriver);
    }
    let mut version = 0;
    // SAFETY: writes one int; the driver need not be started for it.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().wrap("read the driver's version")?;
    match result::init() {
        // A driver that may see nothing does not start.
        Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE => return Ok((version, Vec::new())),
        started => started.wrap("start the driver")?,
    }
    let count = result::device::get_count().wrap("count devices")?;
    let list = (0..count).map(info).collect::<Result<_, _>>()?;
    Ok((version, list))
}

fn info(ordinal: i32) -> Result<DeviceInfo, CudaError> {
    use sys::CUdevice_attribute_enum as A;
    let device = result::device::get(ordinal).wrap("find the device")?;
    // SAFETY: `device` comes from the driver.
    let read = |what| unsafe { result::device::get_attribute(device, what) }.wrap("read a device's attributes");
    // SAFETY: as above.
    let memory = unsafe { result::device::total_mem(device) }.wrap("read a device's memory")?;
    Ok(DeviceInfo {
        ordinal,
        name: result::device::get_name(device).wrap("read a device's name")?,
        memory,
        major: read(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        minor: read(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        multiprocessors: read(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_bytes_max: read(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
    })
}

/// A context on one GPU with a stream for work and one for uploads beside it.
#[derive(Debug)]
pub struct Device {
    info: DeviceInfo,
    handle: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    uploads: sys::CUstream,
}

// SAFETY: contexts and streams may be used from any thread; every call makes the context current first.
unsafe impl Send for Device {}
// SAFETY: as above; the driver locks its own state.
unsafe impl Sync for Device {}

impl Device {
    /// Opens device `ordinal`.
    ///
    /// # Errors
    /// [`CudaError`], among them that there is no driver or no such device.
    pub fn open(ordinal: i32) -> Result<Arc<Self>, CudaError> {
        let (driver, list) = devices()?;
        if driver < DRIVER_MIN {
            return Err(CudaError::OldDriver { found: driver });
        }
        let found = usize::try_from(ordinal).ok().and_then(|at| list.into_iter().nth(at));
        let info = found.ok_or(CudaError::NoDevice { ordinal })?;
        let handle = result::device::get(ordinal).wrap("find the device")?;
        Self::on(info, handle)
    }

    fn on(info: DeviceInfo, handle: sys::CUdevice) -> Result<Arc<Self>, CudaError> {
        // SAFETY: `handle` comes from the driver; the reference is released in `drop`.
        let context = unsafe { result::primary_ctx::retain(handle) }.wrap("make a context")?;
        let streams = || -> Result<_, CudaError> {
            // SAFETY: the context was just made.
            unsafe { result::ctx::set_current(context) }.wrap("use the context")?;
            let make = || result::stream::create(result::stream::StreamKind::NonBlocking).wrap("make a stream");
            Ok((make()?, make()?))
        };
        match streams() {
            Ok((stream, uploads)) => Ok(Arc::new(Self { info, handle, context, stream, uploads })),
            Err(error) => {
                // SAFETY: gives back the reference taken above, and a stream of it goes with the context.
                let _ = unsafe { result::primary_ctx::release(handle) };
                Err(error)
            }
        }
    }

    /// The same device with streams of its own: what is started here runs beside what is started there, and waits for
    /// nothing of it. Memory must stay with the one that it was made by.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn beside(&self) -> Result<Arc<Self>, CudaError> {
        Self::on(self.info.clone(), self.handle)
    }

    /// What the device is.
    #[must_use]
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn bind(&self) -> Result<(), CudaError> {
        // SAFETY: the context lives as long as `self`.
        unsafe { result::ctx::set_current(self.context) }.wrap("use the context")
    }

    /// Waits until everything that was started has ended; errors of kernels show here.
    ///
    /// # Errors
    /// [`CudaError`] of whatever ran.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.bind()?;
        for stream in [self.uploads, self.stream] {
            // SAFETY: the streams live as long as `self`.
            unsafe { result::stream::synchronize(stream) }.wrap("run on the device")?;
        }
        Ok(())
    }

    /// Loads compiled kernels.
    ///
    /// # Errors
    /// [`CudaError`], among them that the image holds nothing for this device.
    pub fn load(self: &Arc<Self>, image: &'static [u8]) -> Result<Module, CudaError> {
        self.bind()?;
        // SAFETY: `image` is a whole fatbin made by the build.
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) }.wrap("load the kernels")?;
        Ok(Module { device: Arc::clone(self), module })
    }

    /// A map for the tensor copy engine: `rows` rows of `columns` bf16, `stride` apart, copied in boxes of 64 rows.
    ///
    /// # Errors
    /// [`CudaError`], among them an alignment that the engine does not take.
    pub fn tensor_map(
        &self,
        base: u64,
        (rows, columns, stride): (u64, u64, u64),
        box_columns: u32,
    ) -> Result<TensorMap, CudaError> {
        self.bind()?;
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        let swizzle = if box_columns * 2 == 128 {
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B
        } else {
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B
        };
        let (dims, strides, sizes, steps) = ([columns, rows], [stride * 2], [box_columns, 64_u32], [1_u32, 1]);
        // SAFETY: all pointers live through the call; the address is only written down.
        let code = unsafe {
            sys::cuTensorMapEncodeTiled(
                &raw mut map,
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                2,
                base as *mut c_void,
                dims.as_ptr(),
                strides.as_ptr(),
                sizes.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                swizzle,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        code.result().wrap("describe a matrix to the copy engine")?;
        Ok(TensorMap { opaque: map.opaque })
    }

    /// Milliseconds that the device takes for what `work` starts.
    ///
    /// # Errors
    /// [`CudaError`] of `work` or of the device.
    pub fn time(self: &Arc<Self>, work: impl FnOnce() -> Result<(), CudaError>) -> Result<f32, CudaError> {
        self.bind()?;
        let (began, ended) = (self.clock()?, self.clock()?);
        self.reach(&began)?;
        work()?;
        self.reach(&ended)?;
        ended.since(&began)
    }

    /// Writes down what `work` starts as one graph, without running it.
    ///
    /// # Errors
    /// [`CudaError`] of `work` or of the driver.
    pub fn capture(self: &Arc<Self>, work: impl FnOnce() -> Result<(), CudaError>) -> Result<Graph, CudaError> {
        self.bind()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives through the calls.
        unsafe { result::stream::begin_capture(self.stream, mode) }.wrap("begin a graph")?;
        let worked = work();
        // SAFETY: ends the capture begun above, also where `work` failed.
        let graph = unsafe { result::stream::end_capture(self.stream) }.wrap("end a graph");
        if let (Err(_), Ok(graph)) = (&worked, &graph) {
            // SAFETY: the graph was just made, and nothing else knows it.
            let _ = unsafe { result::graph::destroy(*graph) };
        }
        worked?;
        let graph = graph?;
        // SAFETY: the graph was just made, and is destroyed once instantiated.
        let made = unsafe { result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) }.wrap("make a graph");
        // SAFETY: as above.
        unsafe { result::graph::destroy(graph) }.wrap("forget a graph")?;
        Ok(Graph { device: Arc::clone(self), handle: made? })
    }

    /// Runs a graph.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn replay(&self, graph: &Graph) -> Result<(), CudaError> {
        self.bind()?;
        // SAFETY: the graph is of this device's stream.
        unsafe { result::graph::launch(graph.handle, self.stream) }.wrap("run a graph")
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: nothing else holds the stream or this reference to the context: buffers hold an `Arc` of `self`.
        unsafe {
            let _ = result::ctx::set_current(self.context);
            let _ = result::stream::destroy(self.uploads);
            let _ = result::stream::destroy(self.stream);
            let _ = result::primary_ctx::release(self.handle);
        }
    }
}

/// Work that was written down once and runs as a whole.
#[derive(Debug)]
pub struct Graph {
    device: Arc<Device>,
    handle: sys::CUgraphExec,
}

// SAFETY: used through the device, which binds its context first.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        let _ = self.device.bind();
        // SAFETY: made by `capture`, destroyed once; a launch that runs goes on, and the driver lets go at its end.
        let _ = unsafe { result::graph::exec_destroy(self.handle) };
    }
}

/// Loaded kernels.
#[derive(Debug)]
pub struct Module {
    device: Arc<Device>,
    module: sys::CUmodule,
}

// SAFETY: a handle that the driver locks itself.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

/// One kernel.
#[derive(Debug, Clone, Copy)]
pub struct Function {
    handle: sys::CUfunction,
    shared: u32,
}

// SAFETY: a handle; it is used through the device alone.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Module {
    /// The kernel `name`, to run with up to `shared` bytes of shared memory.
    ///
    /// # Errors
    /// [`CudaError`], among them that there is no such kernel.
    pub fn function(&self, name: &str, shared: u32) -> Result<Function, CudaError> {
        self.device.bind()?;
        let text = CString::new(name).unwrap_or_default();
        // SAFETY: the module is loaded.
        let handle =
            unsafe { result::module::get_function(self.module, text) }.map_err(|e| CudaError::missing(e, name))?;
        if shared > 48 << 10 {
            let what = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let most = i32::try_from(shared).unwrap_or(i32::MAX);
            // SAFETY: the handle was just given.
            unsafe { result::function::set_function_attribute(handle, what, most) }.wrap("ask for shared memory")?;
        }
        Ok(Function { handle, shared })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        let _ = self.device.bind();
        // SAFETY: loaded once; kernels in flight are waited for.
        let _ = unsafe { result::module::unload(self.module) };
    }
}

/// An argument of a kernel.
pub(super) struct Arg<'a>(*mut c_void, PhantomData<&'a ()>);

/// `value` as an argument.
pub(super) fn arg<T: Plain>(value: &T) -> Arg<'_> {
    Arg(std::ptr::from_ref(value).cast_mut().cast(), PhantomData)
}

impl Device {
    /// Starts a kernel. The arguments must be those of the kernel, and the addresses in them valid until the next
    /// synchronisation: the typed launchers in `launch.rs`, the only callers, check shapes against buffers.
    pub(super) fn launch(
        &self,
        f: Function,
        grid: (u32, u32),
        (threads, shared): (u32, u32),
        args: &[Arg<'_>],
    ) -> Result<(), CudaError> {
        if grid.0 == 0 || grid.1 == 0 {
            return Ok(());
        }
        assert!(shared <= f.shared.max(48 << 10), "more shared memory than the kernel was prepared for");
        self.bind()?;
        let mut list: Vec<*mut c_void> = args.iter().map(|a| a.0).collect();
        // SAFETY: the caller's contract above; the driver copies the arguments before it returns.
        unsafe { result::launch_kernel(f.handle, (grid.0, grid.1, 1), (threads, 1, 1), shared, self.stream, &mut list) }
            .wrap("start a kernel")
    }
}
