//! Instruction sets and which of them this machine has.

use std::fmt;
use std::str::FromStr;

use crate::{KernelError, ffi};

/// An instruction set that the kernels are built for. The order is from slow to fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust, any machine.
    Portable,
    /// x86-64 with AVX2 and FMA (Haswell, Zen and later).
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL and DQ (Skylake-X, Zen 4 and later).
    Avx512,
    /// AVX-512 with BF16 (Zen 4 and later): histories kept in `bf16` are multiplied in pairs, those in `f32` as with [`Isa::Avx512`].
    /// Intel's cores have the instructions (Cooper Lake and later), but are faster without them: there it is chosen by name only.
    Avx512Bf16,
    /// AVX-512 with AMX tiles of bfloat16 (Sapphire Rapids and later): histories kept in `bf16` are multiplied in tiles, those
    /// in `f32` as with [`Isa::Avx512`].
    Amx,
    /// As [`Isa::Amx`] with a model of the tile instructions in plain code: for tests on machines without them, and slow.
    /// Needs the rest of AVX-512 with BF16, and is never chosen by itself.
    AmxModel,
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
                    if std::arch::is_x86_feature_detected!("avx512bf16") {
                        // Intel's cores multiply pairs in vectors at less than the speed of f32: their BF16 is for tiles.
                        let place = if vendor() == *b"GenuineIntel" { found.len() - 1 } else { found.len() };
                        found.insert(place, Isa::Avx512Bf16);
                        if has_tiles() && ffi::amx_permitted() {
                            found.push(Isa::Amx);
                        }
                    }
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

    /// Whether products of histories kept in `bf16` are of bf16 numbers: queries and weights are rounded too then.
    #[must_use]
    pub fn multiplies_bf16(self) -> bool {
        matches!(self, Isa::Avx512Bf16 | Isa::Amx | Isa::AmxModel)
    }

    /// `self` when this machine can run it.
    pub(crate) fn require(self) -> Result<Isa, KernelError> {
        let available = Self::available();
        let modelled = self == Isa::AmxModel && available.contains(&Isa::Avx512Bf16);
        if modelled || available.contains(&self) {
            Ok(self)
        } else {
            Err(KernelError::IsaUnavailable { wanted: self.to_string(), available })
        }
    }
}

/// CPUID leaf 0: twelve letters in ebx, edx and ecx.
#[cfg(target_arch = "x86_64")]
fn vendor() -> [u8; 12] {
    let leaf = std::arch::x86_64::__cpuid(0);
    let mut name = [0; 12];
    for (part, word) in name.chunks_exact_mut(4).zip([leaf.ebx, leaf.edx, leaf.ecx]) {
        part.copy_from_slice(&word.to_le_bytes());
    }
    name
}

/// CPUID leaf 7: AMX-BF16 is bit 22 of edx, AMX-TILE bit 24.
#[cfg(target_arch = "x86_64")]
fn has_tiles() -> bool {
    let leaf = std::arch::x86_64::__cpuid_count(7, 0);
    leaf.edx >> 22 & 1 == 1 && leaf.edx >> 24 & 1 == 1
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Amx => "amx",
            Isa::AmxModel => "amx-model",
        })
    }
}

impl FromStr for Isa {
    type Err = KernelError;

    /// Reads `portable`, `avx2`, `avx512`, `avx512bf16`, `amx` or `amx-model`, in any case.
    fn from_str(text: &str) -> Result<Self, KernelError> {
        match text.to_ascii_lowercase().as_str() {
            "portable" => Ok(Isa::Portable),
            "avx2" => Ok(Isa::Avx2),
            "avx512" => Ok(Isa::Avx512),
            "avx512bf16" => Ok(Isa::Avx512Bf16),
            "amx" => Ok(Isa::Amx),
            "amx-model" => Ok(Isa::AmxModel),
            _ => Err(KernelError::IsaUnavailable { wanted: text.to_owned(), available: Isa::available() }),
        }
    }
}
