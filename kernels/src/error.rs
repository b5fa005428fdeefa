//! What can go wrong in a kernel call: all of it is the caller's shapes or the machine, never the data.

use crate::Isa;

/// A refused call. Nothing is written to the outputs in that case.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// A length or dimension does not fit the others. `what` names the argument.
    #[error("{what}: expected {expected}, got {got}")]
    Shape {
        /// The argument and the dimension at fault.
        what: &'static str,
        /// The value (or bound) that would be right.
        expected: usize,
        /// The value that was given.
        got: usize,
    },
    /// The instruction set asked for does not exist on this machine (or is misspelt).
    #[error("instruction set {wanted:?} is not available here: use one of {available:?}")]
    IsaUnavailable {
        /// What was asked for.
        wanted: String,
        /// What this machine can run, best last.
        available: Vec<Isa>,
    },
    /// The worker threads could not be started.
    #[error("cannot start {threads} kernel threads: {reason}; lower the thread count")]
    Threads {
        /// The number of threads asked for.
        threads: usize,
        /// The operating system's reason.
        reason: String,
    },
    /// A native kernel refused its parameters: a fault in this crate.
    #[error("native kernel returned code {code}: a fault in longbow-kernels, please report it")]
    Native {
        /// The code, as listed in `cpu/params.h`.
        code: i32,
    },
}

/// `Ok` when `got` equals `expected`.
pub(crate) fn equal(what: &'static str, expected: usize, got: usize) -> Result<(), KernelError> {
    if expected == got { Ok(()) } else { Err(KernelError::Shape { what, expected, got }) }
}

/// `Ok` when `got` is at least `floor`.
pub(crate) fn at_least(what: &'static str, floor: usize, got: usize) -> Result<(), KernelError> {
    if got >= floor { Ok(()) } else { Err(KernelError::Shape { what, expected: floor, got }) }
}

/// `Ok` when `got` is at most `limit`.
pub(crate) fn at_most(what: &'static str, limit: usize, got: usize) -> Result<(), KernelError> {
    if got <= limit { Ok(()) } else { Err(KernelError::Shape { what, expected: limit, got }) }
}
