//! `longbow golden FILE...`: the encoders against recorded outputs.

use super::out;
use clap::{Args, ValueEnum};
use longbow_kernels::{Engine, Isa};
use longbow_model::golden::{self, Report, Which};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Shown below `longbow golden --help`.
pub const EXAMPLE: &str = "Example:\n  longbow golden golden/*.safetensors\n  longbow golden --path fast --isa portable model.safetensors\n\n\
    Exits 1 if an error is above the tolerance or a file cannot be used.";

/// Which encoder runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Paths {
    /// The readable one.
    Reference,
    /// The one that serves.
    Fast,
    /// One after the other.
    Both,
}

/// Arguments of `golden`.
#[derive(Clone, Debug, Args)]
pub struct GoldenArgs {
    /// Files of the golden form: a model, `golden.*` inputs and outputs
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Which encoder is checked
    #[arg(long, value_enum, default_value = "both")]
    pub path: Paths,
    /// Instruction set of the fast path: portable, avx2 or avx512 [default: the best of this machine]
    #[arg(long)]
    pub isa: Option<Isa>,
    /// Threads of the fast path, 0 for all cores
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
}

pub(super) fn run(args: &GoldenArgs, json: bool) -> anyhow::Result<ExitCode> {
    let mut encoders = Vec::new();
    if args.path != Paths::Fast {
        encoders.push(Which::Reference);
    }
    if args.path != Paths::Reference {
        encoders.push(Which::Fast(Arc::new(Engine::new(args.threads, args.isa)?)));
    }
    let mut results = Vec::new();
    let mut pass = true;
    for file in &args.files {
        for which in &encoders {
            let (ok, figures) = check(file, which);
            pass &= ok;
            results.push(figures);
        }
    }
    out::line(if pass { "PASS" } else { "FAIL" });
    out::json(json, &json!({ "pass": pass, "tolerance": golden::TOLERANCE, "results": results }))?;
    Ok(if pass { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check(file: &Path, which: &Which) -> (bool, Value) {
    let path = match which {
        Which::Reference => "reference".to_owned(),
        Which::Fast(engine) => format!("fast ({})", engine.isa()),
    };
    match golden::check(file, which) {
        Ok(report) => {
            print(&report, &path);
            let checks: Vec<_> = report
                .checks
                .iter()
                .map(|check| json!({ "what": check.what, "rows": check.rows, "error_max": finite(check.error_max) }))
                .collect();
            let pass = report.pass();
            let error_max = finite(report.error_max());
            (pass, json!({ "file": file, "path": path, "pass": pass, "error_max": error_max, "checks": checks }))
        }
        Err(error) => {
            out::line(format!("FAIL  {}  {path}: {error}", file.display()));
            (false, json!({ "file": file, "path": path, "pass": false, "error": error.to_string() }))
        }
    }
}

/// JSON has no infinity: `null` stands for a result that is no number.
fn finite(error: f64) -> Option<f64> {
    Some(error).filter(|error| error.is_finite())
}

fn print(report: &Report, path: &str) {
    let word = if report.pass() { "ok  " } else { "FAIL" };
    out::line(format!(
        "{word}  {}  {path}: largest error {:.2e}, allowed {:.0e}",
        report.name,
        report.error_max(),
        report.tolerance
    ));
    for check in &report.checks {
        out::line(format!("        {:<18} {:>6} rows  {:.2e}", check.what, check.rows, check.error_max));
    }
}
