//! What `scripts/gpu-check` runs on a machine with a GPU: golden files, fresh random shapes against f64, and the goals, all as
//! rows of one table (part, what, figure, peer, goal, verdict). It needs the driver and nothing else. `--small` shrinks
//! everything for the stand-in driver; `--only shapes` is for compute-sanitizer.
#![expect(clippy::cast_possible_truncation, reason = "a peer that rounds")]
#![expect(clippy::print_stdout, reason = "a command line tool answers on stdout")]

mod goals;
mod peers;
mod shapes;
mod table;
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use longbow_kernels::cuda::{COMPILED_FOR, CudaEngine, probe};
use longbow_model::golden;
use table::{guarded, passed, row};

type Failure = Box<dyn std::error::Error>;

#[derive(Default)]
struct Options {
    golden: Option<PathBuf>,
    only: Option<String>,
    small: bool,
    seed: u64,
}

fn options() -> Result<Options, Failure> {
    let mut options = Options { seed: 1, ..Options::default() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--golden" => options.golden = Some(value()?.into()),
            "--only" => options.only = Some(value()?),
            "--small" => options.small = true,
            "--seed" => options.seed = value()?.parse()?,
            _ => {
                return Err(format!(
                    "{word} is unknown: --golden DIR, --only device|golden|shapes|goals, --small, --seed N"
                )
                .into());
            }
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    run().unwrap_or_else(|failure| {
        println!("error: {failure}");
        ExitCode::FAILURE
    })
}

fn run() -> Result<ExitCode, Failure> {
    let options = options()?;
    let found = probe()?;
    let engine = Arc::new(CudaEngine::new(0)?);
    println!(
        "Device: {}; driver for CUDA {}.{}; kernels for {COMPILED_FOR}; running {:?}.\n",
        engine.device().info(),
        found.driver / 1000,
        found.driver % 1000 / 10,
        engine.form()
    );
    if options.only.as_deref() == Some("device") {
        return Ok(ExitCode::SUCCESS);
    }
    let wants = |part: &str| options.only.as_deref().is_none_or(|only| only == part);
    let mut pass = true;
    if let Some(folder) = options.golden.as_ref().filter(|_| wants("golden")) {
        pass &= guarded("golden", folder.display(), || golden_files(folder, &engine, options.small));
    }
    if wants("shapes") {
        pass &= guarded("shapes", "random shapes", || shapes::run(&engine, options.small, options.seed));
    }
    if wants("goals") {
        pass &= goals::run(&engine, options.small);
    }
    println!("\n{}", if pass { "All checks passed." } else { "CHECKS FAILED." });
    Ok(if pass { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn golden_files(folder: &Path, engine: &Arc<CudaEngine>, small: bool) -> Result<bool, Failure> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "safetensors"));
    if small {
        files.retain(|path| path.metadata().is_ok_and(|meta| meta.len() < 3 << 19));
    }
    files.sort();
    let mut pass = !files.is_empty();
    for path in &files {
        pass &= guarded("golden", path.display(), || golden_file(path, engine));
    }
    Ok(pass)
}

fn golden_file(path: &Path, engine: &Arc<CudaEngine>) -> Result<bool, Failure> {
    let Some(report) = golden::check_device(path, engine)? else { return Ok(true) };
    for check in &report.checks {
        row(
            "golden",
            format!("{}, {}, {} rows", report.name, check.what, check.rows),
            format!("error {:.2e}", check.error_max),
            "",
            &format!("{:.2e}", report.tolerance),
            passed(check.error_max <= report.tolerance),
        );
    }
    Ok(report.pass())
}
