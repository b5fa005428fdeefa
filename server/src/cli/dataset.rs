//! `longbow dataset`.

use super::out;
use crate::demo::{WorldArgs, dataset};
use std::process::ExitCode;
use std::time::Instant;

pub(super) fn run(args: &WorldArgs, json: bool) -> anyhow::Result<ExitCode> {
    let made_by = format!("longbow dataset --split {} --seed {}", split(args), args.seed);
    let mut told = Instant::now();
    let written = dataset(args, made_by, |users| {
        if told.elapsed().as_secs() >= 2 {
            told = Instant::now();
            out::note(format!("{users} users"));
        }
    })?;
    out::line(format!(
        "{}: {} users, {} events, {} impressions",
        args.out.display(),
        written.users,
        written.events,
        written.impressions
    ));
    out::line(format!(
        "clicked {:.2}%, converted {:.2}% of the clicked",
        100.0 * written.click_rate,
        100.0 * written.conversion_rate
    ));
    for (figure, value) in &written.best {
        out::line(format!("best achievable {figure} {value:.4}"));
    }
    out::json(json, &serde_json::to_value(&written)?)?;
    Ok(ExitCode::SUCCESS)
}

fn split(args: &WorldArgs) -> &'static str {
    match args.split {
        crate::demo::Split::Train => "train",
        crate::demo::Split::HeldOut => "held-out",
    }
}
