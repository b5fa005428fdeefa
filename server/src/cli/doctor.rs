//! `longbow doctor`: what this machine has for the server, what it lacks, and the fix.

mod gpu;
mod probe;

use super::out;
use crate::config::Config;
use serde::Serialize;
use std::process::ExitCode;

/// Shown below `longbow doctor --help`.
pub const EXAMPLE: &str = "Example:\n  longbow doctor --data /var/lib/longbow --config /etc/longbow.toml\n\n\
    Exits 1 if something would keep the server from running.";

/// How a finding is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works, but less well than it could.
    Warn,
    /// The server would not run.
    Fault,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub name: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Finding {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, found: found.into(), fix: None }
    }
    fn warn(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warn, found: found.into(), fix: Some(fix.into()) }
    }
    fn fault(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Fault, found: found.into(), fix: Some(fix.into()) }
    }
}

/// Looks at everything. Changes nothing but a probe file in the data directory, which is removed again.
#[must_use]
pub fn examine(config: &Config) -> Vec<Finding> {
    vec![
        probe::cpu(),
        probe::kernels(config),
        probe::cores(config),
        probe::memory(config),
        probe::faiss(),
        probe::blas(),
        gpu::gpu(),
        probe::model(config),
        probe::data(config),
        probe::files(config),
        probe::backlog(),
        probe::port("port http", config.http.listen, "--http"),
        probe::port("port admin", config.admin.listen, "--admin"),
    ]
}

pub(super) fn run(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let findings = examine(config);
    for Finding { name, verdict, found, fix } in &findings {
        let word = match verdict {
            Verdict::Ok => "ok   ",
            Verdict::Warn => "warn ",
            Verdict::Fault => "FAULT",
        };
        out::line(format!("{word}  {name:<12} {found}"));
        if let Some(fix) = fix {
            out::line(format!("       {:<12} fix: {fix}", ""));
        }
    }
    let healthy = findings.iter().all(|finding| finding.verdict != Verdict::Fault);
    out::json(json, &serde_json::json!({ "healthy": healthy, "findings": findings }))?;
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
