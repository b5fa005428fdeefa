//! Whether this machine can run the index: what is compiled for newer CPUs would end the process with an illegal instruction.

/// Whether this machine can run the index, or what it lacks and why that matters. Ask before anything else is called.
///
/// # Errors
/// A sentence for the user: FAISS is compiled for x86-64-v3 (AVX2, FMA, BMI2, F16C) and does not choose at run time, so that on an older
/// machine it would stop with an illegal instruction; OpenBLAS stops likewise where it is told the name of a newer CPU.
pub fn cpu_supported() -> Result<(), String> {
    #[cfg(target_arch = "x86_64")]
    {
        let have = [
            ("avx2", std::arch::is_x86_feature_detected!("avx2")),
            ("fma", std::arch::is_x86_feature_detected!("fma")),
            ("bmi1", std::arch::is_x86_feature_detected!("bmi1")),
            ("bmi2", std::arch::is_x86_feature_detected!("bmi2")),
            ("f16c", std::arch::is_x86_feature_detected!("f16c")),
            ("lzcnt", std::arch::is_x86_feature_detected!("lzcnt")),
            ("movbe", std::arch::is_x86_feature_detected!("movbe")),
        ];
        let missing: Vec<&str> = have.iter().filter(|(_, there)| !there).map(|(name, _)| *name).collect();
        if missing.is_empty() {
            let wide =
                std::arch::is_x86_feature_detected!("avx512bw") && std::arch::is_x86_feature_detected!("avx512vl");
            return blas_fits(&crate::ffi::blas_core().unwrap_or_default(), wide);
        }
        Err(format!(
            "the CPU lacks {}: the retrieval index (FAISS) is compiled for x86-64-v3 (AVX2 and its companions, Intel Haswell or AMD \
             Zen and later) because without AVX2 its code scan is 14 to 19 times slower; use a newer machine, or in a virtual \
             machine pass the host's CPU model through",
            missing.join(", ")
        ))
    }
    #[cfg(not(target_arch = "x86_64"))]
    Ok(())
}

/// OpenBLAS believes `OPENBLAS_CORETYPE`, whatever the CPU: `wide` is whether it has AVX-512 with byte and short vectors.
#[cfg(target_arch = "x86_64")]
fn blas_fits(core: &str, wide: bool) -> Result<(), String> {
    const WIDE: [&str; 3] = ["skylakex", "cooperlake", "sapphirerapids"];
    if wide || !WIDE.contains(&core.to_ascii_lowercase().as_str()) {
        return Ok(());
    }
    Err(format!(
        "OpenBLAS has been told to use its kernels for {core}, and this CPU lacks AVX-512: the first product would end the process; \
         set OPENBLAS_CORETYPE=HASWELL, or leave it unset"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_run_it() {
        assert_eq!(cpu_supported(), Ok(()));
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn kernels_that_the_cpu_lacks_are_refused() {
        assert_eq!(
            (blas_fits("SkylakeX", true), blas_fits("Haswell", false), blas_fits("", false)),
            (Ok(()), Ok(()), Ok(()))
        );
        assert!(blas_fits("SkylakeX", false).unwrap_err().contains("OPENBLAS_CORETYPE=HASWELL"));
    }
}
