//! The only unsafe code of the crate: a thin safe face over FAISS's C API, the vectorised scoring call, and thread settings.
//!
//! `faiss-sys` is called directly because the safe `faiss` crate leaks the selector of every filtered search and ties its bitmap to
//! no lifetime. Here buffers belong to the caller, each search frees its selector and parameters, and no parameters object is shared.

#![expect(unsafe_code, reason = "the FAISS C API; scoring compiled for AVX2")]

mod simd;

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::Once;

use faiss_sys as sys;

pub(crate) use simd::{code_scores, score};

use crate::{Bitmap, IndexError};

unsafe extern "C" {
    /// OpenMP's thread count for parallel regions that the calling thread starts.
    fn omp_set_num_threads(threads: c_int);
}

thread_local! {
    static OMP_THREADS: Cell<c_int> = const { Cell::new(0) };
}

/// A function of a library that is already loaded.
fn loaded(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the name is a C string; the default handle searches what is already loaded.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

/// The CPU family whose kernels OpenBLAS has chosen (as it spells it: `SkylakeX`, `Prescott`). None with another BLAS.
#[must_use]
pub fn blas_core() -> Option<String> {
    let found = loaded(c"openblas_get_corename")?;
    // SAFETY: OpenBLAS declares `char *openblas_get_corename(void)` under this name in all its versions.
    let core: extern "C" fn() -> *const c_char =
        unsafe { std::mem::transmute::<*mut c_void, extern "C" fn() -> *const c_char>(found) };
    let name = core();
    // SAFETY: the name is a constant of the library, ended by a zero.
    (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
}

/// Sets how many threads FAISS may use when called from this thread. BLAS itself always stays on the calling thread: two layers of
/// threads only fight, and spinning idle ones cost other threads milliseconds.
pub(crate) fn limit_threads(threads: u16) {
    static BLAS: Once = Once::new();
    BLAS.call_once(|| {
        // Another BLAS (the reference one) has no threads to limit.
        if let Some(found) = loaded(c"openblas_set_num_threads") {
            // SAFETY: OpenBLAS declares `void openblas_set_num_threads(int)` under this name in all its versions.
            let set: extern "C" fn(c_int) = unsafe { std::mem::transmute::<*mut c_void, extern "C" fn(c_int)>(found) };
            set(1);
        }
    });
    OMP_THREADS.with(|current| {
        let wanted = c_int::from(threads.max(1));
        if current.get() != wanted {
            // SAFETY: any positive count is valid; it changes this thread's setting only.
            unsafe { omp_set_num_threads(wanted) };
            current.set(wanted);
        }
    });
}

/// Lowers the calling thread's priority (niceness 10), for background work that yields to the request path. A system that refuses is no
/// error.
pub fn lower_thread_priority() {
    const NICE: c_int = 10;
    // SAFETY: plain system calls on the calling thread's own id.
    unsafe {
        let thread = libc::syscall(libc::SYS_gettid);
        if let Ok(id) = libc::id_t::try_from(thread) {
            libc::setpriority(libc::PRIO_PROCESS, id, NICE);
        }
    }
}

/// An inverted-list FAISS index under inner product, owned.
#[derive(Debug)]
pub(crate) struct Ivf {
    raw: NonNull<sys::FaissIndex>,
    dim: usize,
}

// SAFETY: the object has no tie to a thread; it is built through `&mut` by one thread at a time.
unsafe impl Send for Ivf {}
// SAFETY: `&self` methods call FAISS's const search, size and write functions, which FAISS documents as safe to run together; they share
// only its global counters of visited lists, which nothing reads.
unsafe impl Sync for Ivf {}

impl Drop for Ivf {
    fn drop(&mut self) {
        // SAFETY: the pointer came from FAISS and is freed once, here.
        unsafe { sys::faiss_Index_free(self.raw.as_ptr()) }
    }
}

impl Ivf {
    /// A new untrained index from a FAISS factory string that names an inverted-list kind.
    pub(crate) fn new(dim: usize, factory: &str) -> Result<Self, IndexError> {
        let call = "index_factory";
        let text = CString::new(factory).map_err(|_| refused(call, "the description has a zero byte"))?;
        let width = c_int::try_from(dim).map_err(|_| refused(call, "the dimension is too large"))?;
        let mut raw = ptr::null_mut();
        // SAFETY: the out-pointer and the C string live through the call.
        let code = unsafe {
            sys::faiss_index_factory(&raw mut raw, width, text.as_ptr(), sys::FaissMetricType_METRIC_INNER_PRODUCT)
        };
        check(code, call)?;
        Self::own(raw, call)
    }

    /// Takes ownership of an index that FAISS made, if it is an inverted-list index under inner product.
    fn own(raw: *mut sys::FaissIndex, call: &'static str) -> Result<Self, IndexError> {
        let raw = NonNull::new(raw).ok_or_else(|| refused(call, "no index came back"))?;
        // From here on an early return frees the index.
        let mut index = Self { raw, dim: 0 };
        // SAFETY: the index is alive; these read its fields.
        let (width, metric, ivf) = unsafe {
            (
                sys::faiss_Index_d(raw.as_ptr()),
                sys::faiss_Index_metric_type(raw.as_ptr()),
                sys::faiss_IndexIVF_cast(raw.as_ptr()),
            )
        };
        if ivf.is_null() || metric != sys::FaissMetricType_METRIC_INNER_PRODUCT {
            return Err(refused(call, "not an inverted-list index under inner product"));
        }
        index.dim = usize::try_from(width).map_err(|_| refused(call, "the dimension is negative"))?;
        Ok(index)
    }

    pub(crate) fn dim(&self) -> usize {
        self.dim
    }

    /// Vectors held.
    pub(crate) fn len(&self) -> usize {
        // SAFETY: reads a field of a live index.
        usize::try_from(unsafe { sys::faiss_Index_ntotal(self.raw.as_ptr()) }).unwrap_or(0)
    }

    /// Whether vectors can be added.
    pub(crate) fn is_trained(&self) -> bool {
        // SAFETY: reads a field of a live index.
        unsafe { sys::faiss_Index_is_trained(self.raw.as_ptr()) != 0 }
    }

    /// Inverted lists.
    pub(crate) fn nlist(&self) -> usize {
        // SAFETY: `own` has checked that the index is an inverted-list one.
        unsafe { sys::faiss_IndexIVF_nlist(sys::faiss_IndexIVF_cast(self.raw.as_ptr())) }
    }

    /// Learns lists and codes from `rows` packed vectors.
    pub(crate) fn train(&mut self, packed: &[f32]) -> Result<(), IndexError> {
        let rows = self.rows_of(packed, "train")?;
        // SAFETY: `packed` holds `rows` vectors of this dimension.
        check(unsafe { sys::faiss_Index_train(self.raw.as_ptr(), rows, packed.as_ptr()) }, "train")
    }

    /// Adds vectors under the given labels, in the lists themselves (an id map over lists corrupts labels on removal).
    pub(crate) fn add(&mut self, packed: &[f32], labels: &[i64]) -> Result<(), IndexError> {
        let call = "add_with_ids";
        let rows = self.rows_of(packed, call)?;
        if usize::try_from(rows).ok() != Some(labels.len()) {
            return Err(refused(call, "one label for each vector is wanted"));
        }
        // SAFETY: `packed` and `labels` hold `rows` vectors and labels.
        let code = unsafe { sys::faiss_Index_add_with_ids(self.raw.as_ptr(), rows, packed.as_ptr(), labels.as_ptr()) };
        check(code, call)
    }

    fn rows_of(&self, packed: &[f32], call: &'static str) -> Result<i64, IndexError> {
        if self.dim == 0 || !packed.len().is_multiple_of(self.dim) {
            return Err(refused(call, "the buffer is not a whole number of vectors"));
        }
        i64::try_from(packed.len() / self.dim).map_err(|_| refused(call, "too many vectors"))
    }

    /// The best labels for one query over `nprobe` lists, among those in `eligible`; absent places have label -1. `scores` and `labels`
    /// have one place for each result wanted.
    pub(crate) fn search(
        &self,
        query: &[f32],
        nprobe: usize,
        eligible: Option<&Bitmap>,
        scores: &mut [f32],
        labels: &mut [i64],
    ) -> Result<(), IndexError> {
        let call = "search";
        if query.len() != self.dim || scores.len() != labels.len() {
            return Err(refused(call, "buffer sizes do not agree"));
        }
        let wanted = i64::try_from(labels.len()).map_err(|_| refused(call, "too many results"))?;
        limit_threads(1);
        let selector = eligible.map(Selector::new).transpose()?;
        let params = Params::new(selector.as_ref(), nprobe)?;
        // SAFETY: query, scores and labels have the lengths passed; the parameters and the bitmap they point into (borrowed by
        // `selector`) outlive the call; the search is const.
        let code = unsafe {
            sys::faiss_Index_search_with_params(
                self.raw.as_ptr(),
                1,
                query.as_ptr(),
                wanted,
                params.raw.as_ptr(),
                scores.as_mut_ptr(),
                labels.as_mut_ptr(),
            )
        };
        drop(params);
        check(code, call)
    }

    /// The index in FAISS's file format.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, IndexError> {
        let call = "write_index";
        let mut start: *mut c_char = ptr::null_mut();
        let mut size = 0;
        // SAFETY: both places outlive the stream, which is closed below.
        let stream = unsafe { libc::open_memstream(&raw mut start, &raw mut size) };
        if stream.is_null() {
            return Err(refused(call, "no memory for the stream"));
        }
        // SAFETY: index and stream are alive; the binding's FILE is the C library's.
        let code = unsafe { sys::faiss_write_index(self.raw.as_ptr(), stream.cast()) };
        // SAFETY: closes the stream once; `start` and `size` are final after this.
        let closed = unsafe { libc::fclose(stream) };
        let bytes = if code == 0 && closed == 0 && !start.is_null() {
            // SAFETY: on success the stream left `size` bytes at `start`.
            Ok(unsafe { std::slice::from_raw_parts(start.cast::<u8>(), size) }.to_vec())
        } else {
            check(code, call).and(Err(refused(call, "no memory for the stream")))
        };
        // SAFETY: the buffer came from malloc and belongs to us; null is allowed.
        unsafe { libc::free(start.cast()) };
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote. FAISS trusts its input: give it only bytes whose digest has been checked.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, IndexError> {
        let call = "read_index";
        if bytes.is_empty() {
            return Err(refused(call, "the file is empty"));
        }
        // SAFETY: opened for reading only, so the bytes are not written; they outlive the stream.
        let stream = unsafe { libc::fmemopen(bytes.as_ptr().cast_mut().cast(), bytes.len(), c"r".as_ptr()) };
        if stream.is_null() {
            return Err(refused(call, "no memory for the stream"));
        }
        let mut raw = ptr::null_mut();
        // SAFETY: the stream and the out-pointer are alive.
        let code = unsafe { sys::faiss_read_index(stream.cast(), 0, &raw mut raw) };
        // SAFETY: closes the stream once.
        unsafe { libc::fclose(stream) };
        check(code, call)?;
        Self::own(raw, call)
    }
}

/// A bitmap selector that cannot outlive its bitmap.
struct Selector<'a> {
    raw: NonNull<sys::FaissIDSelector>,
    bitmap: std::marker::PhantomData<&'a Bitmap>,
}

impl<'a> Selector<'a> {
    fn new(bitmap: &'a Bitmap) -> Result<Self, IndexError> {
        const { assert!(cfg!(target_endian = "little"), "FAISS reads the words byte by byte") };
        let call = "IDSelectorBitmap_new";
        let words = bitmap.words();
        let mut raw = ptr::null_mut();
        // SAFETY: FAISS keeps the pointer to `words`; the lifetime 'a keeps them in place and unchanged.
        let code = unsafe { sys::faiss_IDSelectorBitmap_new(&raw mut raw, words.len() * 8, words.as_ptr().cast()) };
        check(code, call)?;
        let raw = NonNull::new(raw.cast()).ok_or_else(|| refused(call, "no selector came back"))?;
        Ok(Self { raw, bitmap: std::marker::PhantomData })
    }
}

impl Drop for Selector<'_> {
    fn drop(&mut self) {
        // SAFETY: came from FAISS, freed once; the destructor is virtual.
        unsafe { sys::faiss_IDSelector_free(self.raw.as_ptr()) }
    }
}

/// Parameters of one search on inverted lists.
struct Params<'a> {
    raw: NonNull<sys::FaissSearchParametersIVF>,
    selector: std::marker::PhantomData<&'a Selector<'a>>,
}

impl<'a> Params<'a> {
    fn new(selector: Option<&'a Selector<'a>>, nprobe: usize) -> Result<Self, IndexError> {
        let call = "SearchParametersIVF_new";
        let chosen = selector.map_or(ptr::null_mut(), |selector| selector.raw.as_ptr());
        let mut raw = ptr::null_mut();
        // SAFETY: FAISS keeps the selector pointer; the lifetime 'a keeps the selector alive.
        let code = unsafe { sys::faiss_SearchParametersIVF_new_with(&raw mut raw, chosen, nprobe, 0) };
        check(code, call)?;
        let raw = NonNull::new(raw).ok_or_else(|| refused(call, "no parameters came back"))?;
        Ok(Self { raw, selector: std::marker::PhantomData })
    }
}

impl Drop for Params<'_> {
    fn drop(&mut self) {
        // SAFETY: came from FAISS, freed once.
        unsafe { sys::faiss_SearchParametersIVF_free(self.raw.as_ptr()) }
    }
}

fn refused(call: &'static str, message: &str) -> IndexError {
    IndexError::Faiss { call, message: message.to_owned() }
}

/// Turns a C API return code into a result with FAISS's words.
fn check(code: c_int, call: &'static str) -> Result<(), IndexError> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: after a failed call on this thread the message is a C string or null, valid until the next call.
    let message = unsafe {
        let text = sys::faiss_get_last_error();
        if text.is_null() { "no message".to_owned() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
    };
    Err(IndexError::Faiss { call, message: without_source(&message).to_owned() })
}

/// FAISS's words without the source position that begins them (`Error in FUNCTION at FILE.cpp:LINE: `): the build machine's paths say
/// nothing to a user.
fn without_source(message: &str) -> &str {
    let after_file = [".cpp:", ".h:"].iter().filter_map(|mark| message.find(mark).map(|at| at + mark.len())).min();
    after_file
        .and_then(|at| message[at..].split_once(": "))
        .map_or(message, |(_, words)| words.strip_prefix("Error: ").unwrap_or(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_description_is_an_error_with_words() {
        let error = Ivf::new(8, "nonsense").map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with("FAISS index_factory: ") && error.len() > 25 && !error.contains(".cpp"), "{error}");
        assert_eq!(without_source("Error in f(x::y) at /a/b.cpp:12: Error: 'k > 0' failed"), "'k > 0' failed");
    }

    #[test]
    fn only_inverted_lists_are_taken() {
        let error = Ivf::new(8, "Flat").map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("inverted-list"), "{error}");
    }

    /// A selector takes 32 bytes and parameters 64: either left behind by 150,000 searches would show 4.8 MB or more.
    #[test]
    fn searches_leave_no_memory_behind() {
        let resident_kib = || {
            let text = std::fs::read_to_string("/proc/self/statm").unwrap();
            text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4
        };
        let packed: Vec<f32> = (0..800_u16).map(|i| f32::from(i % 37) - 18.0).collect();
        let mut ivf = Ivf::new(8, "IVF2,Flat").unwrap();
        ivf.train(&packed).unwrap();
        ivf.add(&packed, &(0..100).collect::<Vec<i64>>()).unwrap();
        let even: Bitmap = (0..100).step_by(2).collect();
        let (mut scores, mut labels) = ([0.0; 3], [0; 3]);
        let mut search = |times: u32| {
            for _ in 0..times {
                ivf.search(&packed[..8], 2, Some(&even), &mut scores, &mut labels).unwrap();
            }
            assert!(labels.iter().all(|label| label % 2 == 0), "{labels:?}");
        };
        search(20_000);
        // A leak shows each time, what other tests of the process take meanwhile does not.
        let grown = (0..3).map(|_| {
            let before = resident_kib();
            search(150_000);
            resident_kib().saturating_sub(before)
        });
        let grown = grown.min();
        assert!(grown < Some(3_000), "{grown:?} KiB");
    }
}
