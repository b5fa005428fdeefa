//! Builds the C++ kernels, one file for each instruction set with the flags of that set. Other machines than x86-64 use
//! the portable kernels alone.

use std::env;

const SETS: [(&str, &[&str]); 4] = [
    ("avx2", &["-mavx2", "-mfma"]),
    ("avx512", &["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mprefer-vector-width=512"]),
    // Tile instructions are written as inline assembly, so no flag of the compiler is needed for them.
    ("amx", AMX),
    ("amx_model", AMX),
];
const AMX: &[&str] =
    &["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16", "-mfma", "-mprefer-vector-width=512"];

fn main() {
    println!("cargo::rerun-if-changed=cpu");
    println!("cargo::rustc-check-cfg=cfg(native_kernels)");
    if env::var("CARGO_CFG_TARGET_ARCH").as_deref() != Ok("x86_64") {
        return;
    }
    println!("cargo::rustc-cfg=native_kernels");
    for (name, flags) in SETS {
        let mut build = cc::Build::new();
        build.cpp(true).std("c++17").file(format!("cpu/{name}.cpp")).warnings(true).extra_warnings(true);
        // Flags of our own come last, so that no `CXXFLAGS` of the workspace weakens or widens them. The kernels are
        // always optimised: unoptimised intrinsics are slower than the portable code.
        build.opt_level(3).flag("-march=x86-64").flag("-fno-exceptions").flag("-fno-rtti");
        // GCC 12 warns about its own AVX-512 headers.
        build.flag_if_supported("-Wno-uninitialized").flag_if_supported("-Wno-maybe-uninitialized");
        // Each file takes what it needs from the shared headers.
        build.flag_if_supported("-Wno-unused-function");
        for flag in flags {
            build.flag(flag);
        }
        build.compile(&format!("longbow_kernels_{name}"));
    }
}
