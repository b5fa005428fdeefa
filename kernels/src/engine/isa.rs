//! Instruction sets and which of them this machine has.

use std::fmt;
use std::str::FromStr;

use crate::KernelError;

/// An instruction set that the kernels are built for. The order is from slow to fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust, any machine.
    Portable,
    /// x86-64 with AVX2 and FMA (Haswell, Zen and later).
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL and DQ (Skylake-X, Zen 4 and later).
    Avx512,
}

impl Isa {
    /// Every instruction set that this machine can run, best last.
    #[must_use]
    pub fn available() -> Vec<Isa> {
        let mut found = vec![Isa::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                found.push(Isa::Avx2);
                if std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512bw")
                    && std::arch::is_x86_feature_detected!("avx512vl")
                    && std::arch::is_x86_feature_detected!("avx512dq")
                {
                    found.push(Isa::Avx512);
                }
            }
        }
        found
    }

    /// The best instruction set of this machine.
    #[must_use]
    pub fn detect() -> Isa {
        Self::available().last().copied().unwrap_or(Isa::Portable)
    }

    /// `self` when this machine can run it.
    pub(crate) fn require(self) -> Result<Isa, KernelError> {
        let available = Self::available();
        if available.contains(&self) {
            Ok(self)
        } else {
            Err(KernelError::IsaUnavailable { wanted: self.to_string(), available })
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        })
    }
}

impl FromStr for Isa {
    type Err = KernelError;

    /// Reads `portable`, `avx2` or `avx512`, in any case.
    fn from_str(text: &str) -> Result<Self, KernelError> {
        match text.to_ascii_lowercase().as_str() {
            "portable" => Ok(Isa::Portable),
            "avx2" => Ok(Isa::Avx2),
            "avx512" => Ok(Isa::Avx512),
            _ => Err(KernelError::IsaUnavailable { wanted: text.to_owned(), available: Isa::available() }),
        }
    }
}
