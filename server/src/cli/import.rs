//! `longbow import`: histories from a file to a server, a data directory or standard output.

use super::out;
use crate::deadline::{SystemClock, WallClock};
use crate::import::{self, Figures, Format, ImportArgs};
use anyhow::Context;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Between two lines of progress.
const TELL_EVERY: Duration = Duration::from_secs(2);

pub(super) fn run(args: &ImportArgs, json: bool) -> anyhow::Result<ExitCode> {
    let now = args.now.unwrap_or_else(|| SystemClock.seconds());
    if matches!(args.format, Format::Ml1m | Format::Taobao) {
        out::note(format!("the file holds no times: one event a minute for each user, the last at {now}"));
    }
    let events = import::read(args.format, &args.file, now)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut told = Instant::now();
    let tell = |figures: &Figures| {
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            out::note(format!("{} events accepted, {} known already", figures.accepted, figures.duplicate));
        }
    };
    let figures = match (&args.url, &args.data) {
        (Some(url), _) => runtime.block_on(import::post(events, url, tell))?,
        (None, Some(dir)) => runtime.block_on(import::into_directory(events, dir, tell))?,
        (None, None) => {
            let written = import::write_lines(events, std::io::stdout().lock()).context("standard output")?;
            out::note(format!("{written} events written"));
            out::json(json, &serde_json::json!({ "written": written }))?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let Figures { accepted, duplicate, rejected, first_rejection } = &figures;
    out::note(format!("{accepted} events accepted, {duplicate} known already, {rejected} rejected"));
    if let Some(first) = first_rejection {
        out::note(format!("the first rejection: {first}"));
    }
    out::json(json, &figures)?;
    Ok(if *rejected == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
