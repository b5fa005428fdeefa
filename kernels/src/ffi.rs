//! The only unsafe code of the crate: the C++ kernels and the matrix product.
#![expect(unsafe_code, reason = "foreign functions; every call states why its pointers are good")]

use crate::{MatrixMut, MatrixRef};

#[cfg(native_kernels)]
pub(crate) use native::{attend, silu};

#[cfg(not(native_kernels))]
pub(crate) use absent::{attend, silu};

/// On a machine without native kernels `Isa::available` names none, so these are never the ones that run; they give the
/// right answer all the same.
#[cfg(not(native_kernels))]
mod absent {
    use crate::{Isa, KernelError, Scoring, Shape, portable, tile::Tile};

    pub(crate) fn attend(_: Isa, shape: Shape, scoring: &Scoring<'_>, tile: &mut Tile<'_>) -> Result<(), KernelError> {
        portable::attend(shape, scoring, tile);
        Ok(())
    }

    pub(crate) fn silu(_: Isa, x: &mut [f32]) {
        portable::silu_slice(x);
    }
}

#[cfg(native_kernels)]
mod native {
    use std::cell::RefCell;
    use std::ptr;

    use crate::tile::{NextTimes, Tile};
    use crate::{Isa, KernelError, MatrixRef, Scoring, Shape, bucket_edges};

    /// `LongbowKvBlock` of `cpu/params.h`.
    #[repr(C)]
    struct KvBlock {
        k: *const f32,
        v: *const f32,
        times: *const i64,
        k_stride: i64,
        v_stride: i64,
        rows: i64,
    }

    /// `LongbowAttention` of `cpu/params.h`.
    #[repr(C)]
    struct Params {
        size: u64,
        heads: i64,
        d_qk: i64,
        d_v: i64,
        rows: i64,
        q: *const f32,
        q_stride: i64,
        next_times: *const i64,
        next_step: i64,
        first_position: i64,
        causal: i64,
        key_begin: i64,
        key_end: i64,
        blocks: *const KvBlock,
        block_count: i64,
        pos_w: *const f32,
        ts_w: *const f32,
        edges: *const i64,
        max_len: i64,
        own_k: *const f32,
        own_k_stride: i64,
        own_v: *const f32,
        own_v_stride: i64,
        out: *mut f32,
        out_stride: i64,
        scratch: *mut f32,
        scratch_floats: u64,
        alpha: f32,
        scale: f32,
    }

    const PARAMS_SIZE: usize = 224;
    const _: () = assert!(size_of::<Params>() == PARAMS_SIZE, "as in cpu/params.h");
    const _: () = assert!(size_of::<KvBlock>() == 48, "as in cpu/params.h");

    unsafe extern "C" {
        fn longbow_attention_scratch_avx2(params: *const Params) -> u64;
        fn longbow_attention_scratch_avx512(params: *const Params) -> u64;
        fn longbow_attention_avx2(params: *const Params) -> i32;
        fn longbow_attention_avx512(params: *const Params) -> i32;
        fn longbow_silu_avx2(x: *mut f32, len: usize);
        fn longbow_silu_avx512(x: *mut f32, len: usize);
    }

    /// A cache line: the unit of scratch.
    #[repr(C, align(64))]
    #[derive(Clone, Copy)]
    struct Line([f32; 16]);

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
            k: b.k.data().as_ptr(),
            v: b.v.data().as_ptr(),
            times: if timed { b.times.as_ptr() } else { ptr::null() },
            k_stride: signed(b.k.stride()),
            v_stride: signed(b.v.stride()),
            rows: signed(b.k.rows()),
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
        let timed = scoring.bias.is_some();
        let mut params = params(shape, scoring, tile);
        let code = SCRATCH.with_borrow_mut(|scratch| {
            scratch.blocks.clear();
            scratch.blocks.extend(tile.kv.iter().map(|b| block(b, timed)));
            params.blocks = scratch.blocks.as_ptr();
            params.block_count = signed(scratch.blocks.len());
            // SAFETY: the function reads the sizes in `params` only, and runs on any x86-64 machine that has `isa`.
            let floats = unsafe {
                match isa {
                    Isa::Avx512 => longbow_attention_scratch_avx512(&raw const params),
                    _ => longbow_attention_scratch_avx2(&raw const params),
                }
            };
            let lines = usize::try_from(floats).unwrap_or(usize::MAX).div_ceil(16);
            if scratch.lines.len() < lines {
                scratch.lines.resize(lines, Line([0.0; 16]));
            }
            params.scratch = scratch.lines.as_mut_ptr().cast();
            params.scratch_floats = (scratch.lines.len() * 16) as u64;
            // SAFETY: `CausalSeq::check` and `CandidateSeq::check` have compared every length: the views behind `q`,
            // `own_*`, `out` and the blocks hold the rows and columns stated, the tables are as long as `max_len` and the
            // bucket count say, and no position exceeds `max_len - 1`. `tile.rs` keeps rows and keys inside them. `out`
            // and `scratch` are borrowed mutably and alias nothing. The kernel keeps no pointer. `isa` exists here.
            unsafe {
                match isa {
                    Isa::Avx512 => longbow_attention_avx512(&raw const params),
                    _ => longbow_attention_avx2(&raw const params),
                }
            }
        });
        if code == 0 { Ok(()) } else { Err(KernelError::Native { code }) }
    }

    /// `x * sigmoid(x)` over a slice, with the kernel of `isa`, which this machine must have.
    pub(crate) fn silu(isa: Isa, x: &mut [f32]) {
        // SAFETY: the pointer and the length are those of one slice, borrowed mutably; `isa` exists here.
        unsafe {
            match isa {
                Isa::Avx512 => longbow_silu_avx512(x.as_mut_ptr(), x.len()),
                _ => longbow_silu_avx2(x.as_mut_ptr(), x.len()),
            }
        }
    }
}

/// `c = a * b + beta * c`. The caller has checked that the shapes fit.
pub(crate) fn gemm(a: MatrixRef<'_>, b: MatrixRef<'_>, beta: f32, c: &mut MatrixMut<'_>) {
    assert!(a.cols() == b.rows() && b.cols() == c.cols() && a.rows() == c.rows(), "product of unequal shapes");
    sgemm(a, (b, [b.stride().cast_signed(), 1]), beta, c);
}

/// `c = a * b^T + beta * c`. The caller has checked that the shapes fit.
pub(crate) fn gemm_bt(a: MatrixRef<'_>, b: MatrixRef<'_>, beta: f32, c: &mut MatrixMut<'_>) {
    assert!(a.cols() == b.cols() && b.rows() == c.cols() && a.rows() == c.rows(), "product of unequal shapes");
    sgemm(a, (b, [1, b.stride().cast_signed()]), beta, c);
}

/// `b` comes with its strides from row to row and from column to column of the right-hand side as it is used.
fn sgemm(a: MatrixRef<'_>, (b, b_strides): (MatrixRef<'_>, [isize; 2]), beta: f32, c: &mut MatrixMut<'_>) {
    let (m, k, n) = (a.rows(), a.cols(), c.cols());
    let (a_stride, c_stride) = (a.stride().cast_signed(), c.stride().cast_signed());
    let c_data = c.data_mut().as_mut_ptr();
    // SAFETY: a matrix view holds at least `(rows - 1) * stride + cols` floats with `stride >= cols` (checked when it is
    // made), the shapes fit (checked by both callers), and `c` is borrowed mutably, so it overlaps neither `a` nor `b`.
    unsafe {
        matrixmultiply::sgemm(
            m,
            k,
            n,
            1.0,
            a.data().as_ptr(),
            a_stride,
            1,
            b.data().as_ptr(),
            b_strides[0],
            b_strides[1],
            beta,
            c_data,
            c_stride,
            1,
        );
    }
}
