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
    /// The one that serves, with user states in bf16: held to the bound of such states.
    Bf16,
    /// Reference and fast.
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
    /// Instruction set of the fast path: portable, avx2, avx512, avx512bf16, amx, or amx-model (AMX in plain code: slow)
    /// [default: the best of this machine]
    #[arg(long)]
    pub isa: Option<Isa>,
    /// Threads of the fast path, 0 for all cores
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
}

/// A path through the files.
enum Encoder {
    Exact(Which),
    Bf16(Arc<Engine>),
}

pub(super) fn run(args: &GoldenArgs, json: bool) -> anyhow::Result<ExitCode> {
    let mut encoders = Vec::new();
    if matches!(args.path, Paths::Reference | Paths::Both) {
        encoders.push(Encoder::Exact(Which::Reference));
    }
    if args.path != Paths::Reference {
        let engine = Arc::new(Engine::new(args.threads, args.isa)?);
        let bf16 = args.path == Paths::Bf16;
        encoders.push(if bf16 { Encoder::Bf16(engine) } else { Encoder::Exact(Which::Fast(engine)) });
    }
    let mut results = Vec::new();
    let mut pass = true;
    for file in &args.files {
        for encoder in &encoders {
            let Some((ok, figures)) = check(file, encoder) else {
                out::line(format!("skip  {}: models of its form have no user states", file.display()));
                continue;
            };
            pass &= ok;
            results.push(figures);
        }
    }
    out::line(if pass { "PASS" } else { "FAIL" });
    out::json(json, &json!({ "pass": pass, "results": results }))?;
    Ok(if pass { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether a file passes, and its figures; nothing where it is not for this path.
fn check(file: &Path, encoder: &Encoder) -> Option<(bool, Value)> {
    let path = match encoder {
        Encoder::Exact(Which::Reference) => "reference".to_owned(),
        Encoder::Exact(Which::Fast(engine)) => format!("fast ({})", engine.isa()),
        Encoder::Bf16(engine) => format!("bf16 states ({})", engine.isa()),
    };
    let report = match encoder {
        Encoder::Exact(which) => golden::check(file, which).map(Some),
        Encoder::Bf16(engine) => golden::check_bf16(file, engine),
    };
    let found = match report {
        Ok(None) => return None,
        Ok(Some(report)) => {
            print(&report, &path);
            let checks: Vec<_> = report
                .checks
                .iter()
                .map(|check| json!({ "what": check.what, "rows": check.rows, "error_max": finite(check.error_max) }))
                .collect();
            let pass = report.pass();
            let error_max = finite(report.error_max());
            let figures = json!({
                "file": file, "path": path, "pass": pass, "error_max": error_max,
                "tolerance": report.tolerance, "checks": checks
            });
            (pass, figures)
        }
        Err(error) => {
            out::line(format!("FAIL  {}  {path}: {error}", file.display()));
            (false, json!({ "file": file, "path": path, "pass": false, "error": error.to_string() }))
        }
    };
    Some(found)
}

/// JSON has no infinity: `null` stands for a result that is no number.
fn finite(error: f64) -> Option<f64> {
    Some(error).filter(|error| error.is_finite())
}

fn print(report: &Report, path: &str) {
    let word = if report.pass() { "ok  " } else { "FAIL" };
    out::line(format!(
        "{word}  {}  {path}: largest error {:.2e}, allowed {:.1e}",
        report.name,
        report.error_max(),
        report.tolerance
    ));
    for check in &report.checks {
        out::line(format!("        {:<18} {:>6} rows  {:.2e}", check.what, check.rows, check.error_max));
    }
}
