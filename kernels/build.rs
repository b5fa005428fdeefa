//! Builds the C++ kernels, one file for each instruction set with the flags of that set. Other machines than x86-64 use
//! the portable kernels alone. With the feature `cuda`, nvcc builds the GPU kernels too: one fatbin a file.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const SETS: [(&str, &[&str]); 5] = [
    ("avx2", &["-mavx2", "-mfma"]),
    ("avx512", &["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mprefer-vector-width=512"]),
    ("avx512bf16", BF16),
    // Tile instructions are written as inline assembly, so no flag of the compiler is needed for them.
    ("amx", BF16),
    ("amx_model", BF16),
];
const BF16: &[&str] =
    &["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16", "-mfma", "-mprefer-vector-width=512"];

/// Code for 8.0, for 9.0 with its own instructions, and PTX for what comes after.
const GPUS: [&str; 2] = ["arch=compute_80,code=[sm_80,compute_80]", "arch=compute_90a,code=sm_90a"];

fn main() {
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        gpu_kernels();
    }
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

fn gpu_kernels() {
    println!("cargo::rerun-if-changed=cuda");
    println!("cargo::rerun-if-env-changed=LONGBOW_CUDA");
    let Some(nvcc) = nvcc() else {
        panic!(
            "the feature `cuda` needs nvcc: run scripts/cuda-toolkit (105 MB, no root), or point LONGBOW_CUDA at a CUDA \
             toolkit of 12.8 or later"
        );
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    for file in ["attention", "layers"] {
        let mut command = Command::new(&nvcc);
        command.args(["-std=c++17", "-O3", "--fatbin"]);
        for gpu in GPUS {
            command.arg("-gencode").arg(gpu);
        }
        command.arg("-o").arg(out.join(format!("{file}.fatbin"))).arg(format!("cuda/{file}.cu"));
        match command.status() {
            Ok(status) if status.success() => {}
            Ok(status) => panic!("{command:?} ended with {status}"),
            Err(error) => panic!("{} cannot be run: {error}", nvcc.display()),
        }
    }
}

/// nvcc of `LONGBOW_CUDA`, of `.cuda-toolkit` beside the workspace, or of the path.
fn nvcc() -> Option<PathBuf> {
    let inside = |top: &Path| {
        let places = ["nvidia/cu13/bin/nvcc", "bin/nvcc"].map(|place| top.join(place));
        places.into_iter().find(|path| path.is_file())
    };
    if let Some(top) = env::var_os("LONGBOW_CUDA") {
        return inside(Path::new(&top));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = || env::split_paths(&path).map(|folder| folder.join("nvcc")).find(|path| path.is_file());
    inside(Path::new("../.cuda-toolkit")).or_else(on_path)
}
