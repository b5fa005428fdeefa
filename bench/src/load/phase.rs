//! Phases of one steady load, with something else going on in some of them.

use super::open_loop::{self, Figures, Run};
use super::traffic::{Recipe, Source};
use crate::client::Target;
use crate::out;
use anyhow::bail;
use serde::Serialize;
use std::time::Duration;

/// Heads of the columns of [`Phase::row`].
pub(crate) const COLUMNS: [&str; 9] =
    ["medians", "requests", "p50 ms", "p99", "max", "200 %", "refused %", "errors %", "late %"];
/// Rest before a phase, so that what one leaves behind is not measured in the next.
const REST: Duration = Duration::from_millis(500);

/// What is offered in every phase.
#[derive(Debug)]
pub(crate) struct Offer<'a> {
    /// Server.
    pub(crate) target: &'a Target,
    /// Kind of the requests.
    pub(crate) recipe: &'a Recipe,
    /// Requests a second.
    pub(crate) rate: f64,
    /// Length of a phase.
    pub(crate) seconds: f64,
}

impl Offer<'_> {
    /// Refuses rates and lengths that measure nothing; `seconds_min` is the shortest phase.
    pub(crate) fn check(&self, seconds_min: f64) -> anyhow::Result<()> {
        let bounds = [("--rate", self.rate, 0.1, 1e6), ("--seconds", self.seconds, seconds_min, 3600.0)];
        for (name, value, low, high) in bounds {
            if !(low..=high).contains(&value) {
                bail!("{name} {value}: must be from {low} to {high}");
            }
        }
        Ok(())
    }

    /// One phase: the same requests in all phases of a round, so that only what goes on beside them differs.
    pub(crate) fn measure(&self, round: u64) -> anyhow::Result<Figures> {
        std::thread::sleep(REST);
        let recipe = self.recipe.with_seed(self.recipe.seed + round);
        let run = Run {
            target: self.target.clone(),
            rate: self.rate,
            length: Duration::from_secs_f64(self.seconds),
            connections: 64,
            timeout: Duration::from_secs(5),
            seed: recipe.seed,
        };
        open_loop::run(run, Source::new(&recipe)?)
    }
}

/// One phase over all rounds: medians, times in milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Phase {
    /// Of all rounds together.
    pub(crate) requests: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Highest of all rounds.
    pub(crate) max_ms: f64,
    pub(crate) bid_share: f64,
    pub(crate) refused_share: f64,
    pub(crate) error_share: f64,
    pub(crate) late_share: f64,
}

impl Phase {
    pub(crate) fn of(rounds: &[Figures]) -> Self {
        let of = |pick: fn(&Figures) -> f64| out::median(rounds.iter().map(pick).collect());
        Self {
            requests: rounds.iter().map(|figures| figures.requests).sum(),
            p50_ms: of(|f| f.p50_ms),
            p99_ms: of(|f| f.p99_ms),
            max_ms: rounds.iter().map(|figures| figures.max_ms).fold(0.0, f64::max),
            bid_share: of(|f| f.bid_share),
            refused_share: of(|f| f.refused_share),
            error_share: of(|f| f.error_share),
            late_share: of(|f| f.late_share),
        }
    }

    /// Its line in a table under [`COLUMNS`].
    pub(crate) fn row(&self, name: &str) -> Vec<String> {
        let percent = |share: f64| format!("{:.2}", share * 100.0);
        let mut row = vec![name.to_owned(), self.requests.to_string()];
        row.extend([self.p50_ms, self.p99_ms, self.max_ms].map(|ms| format!("{ms:.2}")));
        row.extend([self.bid_share, self.refused_share, self.error_share, self.late_share].map(percent));
        row
    }
}

/// Fails if the 99th percentile grew by more than the factor given.
pub(crate) fn judge(ratio_p99: f64, ratio_max: Option<f64>) -> anyhow::Result<()> {
    match ratio_max {
        Some(most) if ratio_p99 > most => bail!("p99 grew by {ratio_p99:.2}, more than {most}"),
        _ => Ok(()),
    }
}
