//! The only unsafe code of the crate: the C++ kernels, and the crew's loan of a closure to its threads.
#![expect(unsafe_code, reason = "foreign functions; every call states why its pointers are good")]

#[cfg(native_kernels)]
pub(crate) use native::{amx_permitted, attend, norm, product, silu};

#[cfg(not(native_kernels))]
pub(crate) use absent::{amx_permitted, attend, norm, product, silu};

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;

/// On a machine without native kernels `Isa::available` names none, so these are never the ones that run; they give the
/// right answer all the same.
#[cfg(not(native_kernels))]
mod absent {
    use crate::dense::{Norm, Product};
    use crate::{Isa, KernelError, Scoring, Shape, portable, tile::Tile};

    pub(crate) fn amx_permitted() -> bool {
        false
    }

    pub(crate) fn attend(_: Isa, shape: Shape, scoring: &Scoring<'_>, tile: &mut Tile<'_>) -> Result<(), KernelError> {
        portable::attend(shape, scoring, tile);
        Ok(())
    }

    pub(crate) fn product(_: Isa, product: Product<'_, '_>) -> Result<(), KernelError> {
        portable::product(product);
        Ok(())
    }

    pub(crate) fn norm(_: Isa, norm: Norm<'_, '_>) -> Result<(), KernelError> {
        portable::norm(norm);
        Ok(())
    }

    pub(crate) fn silu(_: Isa, x: &mut [f32]) {
        portable::silu_slice(x);
    }
}

#[cfg(native_kernels)]
mod params;

#[cfg(native_kernels)]
mod native {
    use std::cell::RefCell;
    use std::ptr;

    use super::params::{KvBlock, NORM_SIZE, NormParams, PARAMS_SIZE, PRODUCT_SIZE, Params, ProductParams};
    use crate::dense::{Norm, Product};
    use crate::panel::Line;
    use crate::tile::{NextTimes, Tile};
    use crate::{Isa, KernelError, KvFormat, MatrixRef, Scoring, Shape, bucket_edges};

    unsafe extern "C" {
        fn longbow_attention_scratch_avx2(params: *const Params) -> u64;
        fn longbow_attention_scratch_avx512(params: *const Params) -> u64;
        fn longbow_attention_scratch_avx512bf16(params: *const Params) -> u64;
        fn longbow_attention_scratch_amx(params: *const Params) -> u64;
        fn longbow_attention_avx2(params: *const Params) -> i32;
        fn longbow_attention_avx512(params: *const Params) -> i32;
        fn longbow_attention_avx512bf16(params: *const Params) -> i32;
        fn longbow_attention_amx(params: *const Params) -> i32;
        fn longbow_attention_amx_model(params: *const Params) -> i32;
        fn longbow_amx_permit() -> i32;
        fn longbow_product_avx2(params: *const ProductParams) -> i32;
        fn longbow_product_avx512(params: *const ProductParams) -> i32;
        fn longbow_norm_avx2(params: *const NormParams) -> i32;
        fn longbow_norm_avx512(params: *const NormParams) -> i32;
        fn longbow_silu_avx2(x: *mut f32, len: usize);
        fn longbow_silu_avx512(x: *mut f32, len: usize);
    }

    /// What a thread keeps from call to call, so that nothing is allocated once its largest tile has been seen.
    #[derive(Default)]
    struct Scratch {
        lines: Vec<Line>,
        blocks: Vec<KvBlock>,
    }

    thread_local! {
        static SCRATCH: RefCell<Scratch> = RefCell::default();
    }

    fn signed(x: usize) -> i64 {
        // No length of a slice exceeds `isize::MAX`.
        x as i64
    }

    fn block(b: &crate::KvBlock<'_>, timed: bool) -> KvBlock {
        KvBlock {
            panels: b.lines.as_ptr(),
            times: if timed { b.times.as_ptr() } else { ptr::null() },
            rows: signed(b.rows),
            panel_keys: signed(b.layout.panel_keys()),
        }
    }

    fn pointer(m: Option<MatrixRef<'_>>) -> (*const f32, i64) {
        m.map_or((ptr::null(), 0), |m| (m.data().as_ptr(), signed(m.stride())))
    }

    /// Everything but blocks and scratch.
    fn params(shape: Shape, scoring: &Scoring<'_>, tile: &mut Tile<'_>) -> Params {
        let bias = scoring.bias.as_ref();
        let (own_k, own_k_stride) = pointer(tile.own.map(|o| o.k));
        let (own_v, own_v_stride) = pointer(tile.own.map(|o| o.v));
        let (next_times, next_step) = match &tile.next {
            NextTimes::Each(times) => (times.as_ptr(), 1),
            NextTimes::Same(time) => (ptr::from_ref(time), 0),
        };
        Params {
            size: PARAMS_SIZE as u64,
            heads: signed(shape.heads),
            d_qk: signed(shape.d_qk),
            d_v: signed(shape.d_v),
            rows: signed(tile.q.rows()),
            q: tile.q.data().as_ptr(),
            q_stride: signed(tile.q.stride()),
            next_times: if bias.is_some() { next_times } else { ptr::null() },
            next_step,
            first_position: signed(tile.first_position),
            causal: i64::from(tile.causal),
            key_begin: signed(tile.keys.start),
            key_end: signed(tile.keys.end),
            blocks: ptr::null(),
            block_count: 0,
            format: match tile.format() {
                KvFormat::F32 => 0,
                KvFormat::Bf16 => 1,
            },
            pos_w: bias.map_or(ptr::null(), |b| b.pos_w.as_ptr()),
            ts_w: bias.map_or(ptr::null(), |b| b.ts_w.as_ptr()),
            edges: bucket_edges().as_ptr(),
            max_len: bias.map_or(0, |b| signed(b.max_len)),
            own_k,
            own_k_stride,
            own_v,
            own_v_stride,
            out_stride: signed(tile.out.stride()),
            out: tile.out.data_mut().as_mut_ptr(),
            scratch: ptr::null_mut(),
            scratch_floats: 0,
            alpha: scoring.alpha,
            scale: scoring.scale,
        }
    }

    /// Whether the operating system grants the AMX tiles, to this and every later thread.
    pub(crate) fn amx_permitted() -> bool {
        // SAFETY: no pointers; the function is a system call that runs on any x86-64 machine with Linux, and refuses others.
        unsafe { longbow_amx_permit() == 0 }
    }

    /// Overwrites `tile.out` with the kernel of `isa`, which this machine must have (`Engine::new` checks it).
    pub(crate) fn attend(
        isa: Isa,
        shape: Shape,
        scoring: &Scoring<'_>,
        tile: &mut Tile<'_>,
    ) -> Result<(), KernelError> {
        if tile.q.rows() == 0 {
            return Ok(());
        }
        type Scratched = unsafe extern "C" fn(*const Params) -> u64;
        type Kernel = unsafe extern "C" fn(*const Params) -> i32;
        let (floats, kernel): (Scratched, Kernel) = match (isa, tile.format()) {
            (Isa::Amx, KvFormat::Bf16) => (longbow_attention_scratch_amx, longbow_attention_amx),
            (Isa::AmxModel, KvFormat::Bf16) => (longbow_attention_scratch_amx, longbow_attention_amx_model),
            (Isa::Avx512Bf16, KvFormat::Bf16) => (longbow_attention_scratch_avx512bf16, longbow_attention_avx512bf16),
            (Isa::Portable | Isa::Avx2, _) => (longbow_attention_scratch_avx2, longbow_attention_avx2),
            _ => (longbow_attention_scratch_avx512, longbow_attention_avx512),
        };
        let timed = scoring.bias.is_some();
        let mut params = params(shape, scoring, tile);
        let code = SCRATCH.with_borrow_mut(|scratch| {
            scratch.blocks.clear();
            scratch.blocks.extend(tile.kv.iter().map(|b| block(b, timed)));
            params.blocks = scratch.blocks.as_ptr();
            params.block_count = signed(scratch.blocks.len());
            // SAFETY: the function reads the sizes in `params` only, and runs on any x86-64 machine that has `isa`.
            let floats = unsafe { floats(&raw const params) };
            let lines = usize::try_from(floats).unwrap_or(usize::MAX).div_ceil(16);
            if scratch.lines.len() < lines {
                scratch.lines.resize(lines, Line::default());
            }
            params.scratch = scratch.lines.as_mut_ptr().cast();
            params.scratch_floats = (scratch.lines.len() * 16) as u64;
            // SAFETY: `CausalSeq::check` and `CandidateSeq::check` have compared every length: the views behind `q`,
            // `own_*`, `out` hold the rows and columns stated, the blocks (by `KvBlock::new`) the lines of all their
            // panels, the tables are as long as `max_len` and the bucket count say, and no position exceeds
            // `max_len - 1`. `tile.rs` keeps rows and keys inside them. `out` and `scratch` are borrowed mutably and
            // alias nothing. The kernel keeps no pointer. `isa` exists here.
            unsafe { kernel(&raw const params) }
        });
        if code == 0 { Ok(()) } else { Err(KernelError::Native { code }) }
    }

    /// A product with the kernel of `isa`, which this machine must have. The caller has checked that the shapes fit.
    pub(crate) fn product(isa: Isa, product: Product<'_, '_>) -> Result<(), KernelError> {
        let Product { a, b, bias, accumulate, c } = product;
        assert!(a.cols() == b.rows() && b.cols() == c.cols() && a.rows() == c.rows(), "product of unequal shapes");
        assert!(bias.is_none_or(|bias| bias.len() == c.cols()), "bias of another length");
        let params = ProductParams {
            size: PRODUCT_SIZE as u64,
            rows: signed(a.rows()),
            inner: signed(a.cols()),
            cols: signed(c.cols()),
            a: a.data().as_ptr(),
            a_stride: signed(a.stride()),
            b: b.lines().as_ptr(),
            bias: bias.map_or(ptr::null(), <[f32]>::as_ptr),
            c_stride: signed(c.stride()),
            c: c.data_mut().as_mut_ptr(),
            accumulate: i64::from(accumulate),
        };
        // SAFETY: a view holds at least `(rows - 1) * stride + cols` floats (checked when it is made), a packed matrix
        // `rows` rows of 64 floats for each panel of columns, the shapes fit (above), and `c` is borrowed mutably, so it
        // overlaps nothing else. `isa` exists here.
        let code = unsafe {
            match isa {
                Isa::Avx2 => longbow_product_avx2(&raw const params),
                _ => longbow_product_avx512(&raw const params),
            }
        };
        if code == 0 { Ok(()) } else { Err(KernelError::Native { code }) }
    }

    /// A layer norm with the kernel of `isa`, which this machine must have. The caller has checked that the shapes fit.
    pub(crate) fn norm(isa: Isa, norm: Norm<'_, '_>) -> Result<(), KernelError> {
        let Norm { x, epsilon, affine, gate, out } = norm;
        let (rows, cols) = (x.rows(), x.cols());
        assert!(out.rows() == rows && out.cols() == cols, "norm of unequal shapes");
        assert!(gate.is_none_or(|g| g.rows() == rows && g.cols() == cols), "gate of another shape");
        assert!(affine.is_none_or(|a| a.weight.len() == cols && a.bias.len() == cols), "affine part of another length");
        if cols == 0 {
            return Ok(());
        }
        let (gate, gate_stride) = pointer(gate);
        let params = NormParams {
            size: NORM_SIZE as u64,
            rows: signed(rows),
            cols: signed(cols),
            x: x.data().as_ptr(),
            x_stride: signed(x.stride()),
            weight: affine.map_or(ptr::null(), |a| a.weight.as_ptr()),
            bias: affine.map_or(ptr::null(), |a| a.bias.as_ptr()),
            gate,
            gate_stride,
            out_stride: signed(out.stride()),
            out: out.data_mut().as_mut_ptr(),
            epsilon,
            unused: 0.0,
        };
        // SAFETY: as for `product`: the views hold what they state, the shapes fit (above), `out` is borrowed mutably.
        let code = unsafe {
            match isa {
                Isa::Avx2 => longbow_norm_avx2(&raw const params),
                _ => longbow_norm_avx512(&raw const params),
            }
        };
        if code == 0 { Ok(()) } else { Err(KernelError::Native { code }) }
    }

    /// `x * sigmoid(x)` over a slice, with the kernel of `isa`, which this machine must have.
    pub(crate) fn silu(isa: Isa, x: &mut [f32]) {
        // SAFETY: the pointer and the length are those of one slice, borrowed mutably; `isa` exists here.
        unsafe {
            match isa {
                Isa::Avx2 => longbow_silu_avx2(x.as_mut_ptr(), x.len()),
                _ => longbow_silu_avx512(x.as_mut_ptr(), x.len()),
            }
        }
    }
}

/// What the threads of a crew share.
#[derive(Default)]
struct Desk {
    /// The work of the moment and its number; none between calls.
    work: Option<&'static (dyn Fn() + Sync)>,
    number: u64,
    /// Threads that are inside the work.
    inside: usize,
    /// Whether a thread left the work by a panic.
    broken: bool,
    closed: bool,
}

#[derive(Default)]
struct Room {
    desk: Mutex<Desk>,
    /// A new work, or the end.
    called: Condvar,
    /// Nobody is inside any more.
    left: Condvar,
}

impl Room {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Threads that wait to run one closure all at once. Nothing is allocated for a call.
pub(crate) struct Crew {
    room: Arc<Room>,
    busy: Mutex<()>,
    threads: Vec<JoinHandle<()>>,
}

impl Crew {
    /// Starts `helpers` threads.
    pub(crate) fn new(helpers: usize) -> std::io::Result<Self> {
        let mut crew = Self { room: Arc::default(), busy: Mutex::new(()), threads: Vec::with_capacity(helpers) };
        for i in 0..helpers {
            let room = Arc::clone(&crew.room);
            crew.threads.push(std::thread::Builder::new().name(format!("kernel-{i}")).spawn(move || help(&room))?);
        }
        Ok(crew)
    }

    /// Runs `work` on this thread and on every helper that wakes up in time; all have left it on return. `work` must be fit to
    /// run any number of times at once. While another call has the helpers, it runs on this thread alone.
    pub(crate) fn run(&self, work: &(dyn Fn() + Sync)) {
        let _mine = match self.busy.try_lock() {
            Ok(mine) => mine,
            Err(TryLockError::Poisoned(mine)) => mine.into_inner(),
            Err(TryLockError::WouldBlock) => return work(),
        };
        // SAFETY: only the lifetime changes. The reference is withdrawn below, and this function does not return or unwind
        // before the last thread has left the closure: `Recall` sees to it even when `work` panics here.
        let lent = unsafe { std::mem::transmute::<&(dyn Fn() + Sync), &'static (dyn Fn() + Sync)>(work) };
        {
            let mut desk = self.room.desk();
            desk.work = Some(lent);
            desk.number += 1;
        }
        self.room.called.notify_all();
        let recall = Recall(&self.room);
        work();
        drop(recall);
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.room.desk().closed = true;
        self.room.called.notify_all();
        for thread in self.threads.drain(..) {
            // A helper catches the panics of its work: there is nothing to hear from it.
            let _ = thread.join();
        }
    }
}

/// Takes the work off the desk and waits until nobody is inside.
struct Recall<'a>(&'a Room);

impl Drop for Recall<'_> {
    fn drop(&mut self) {
        let mut desk = self.0.desk();
        desk.work = None;
        while desk.inside > 0 {
            desk = self.0.left.wait(desk).unwrap_or_else(PoisonError::into_inner);
        }
        let broken = std::mem::take(&mut desk.broken);
        drop(desk);
        assert!(!broken || std::thread::panicking(), "a kernel thread panicked");
    }
}

/// A helper's life.
fn help(room: &Room) {
    let mut seen = 0;
    let mut desk = room.desk();
    while !desk.closed {
        match desk.work {
            Some(work) if desk.number != seen => {
                seen = desk.number;
                desk.inside += 1;
                drop(desk);
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
                desk = room.desk();
                desk.inside -= 1;
                desk.broken |= result.is_err();
                if desk.inside == 0 {
                    room.left.notify_all();
                }
            }
            _ => desk = room.called.wait(desk).unwrap_or_else(PoisonError::into_inner),
        }
    }
}
