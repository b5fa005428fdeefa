//! Where the time of calls goes, stage by stage.

use std::fmt;
use std::time::Duration;

/// A stage of a pass of rows through the layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Rows from items, actions and positions.
    Embed,
    /// Norm, projection to u, v, q and k, SiLU.
    Project,
    /// K and V written into the state's panels.
    Keep,
    /// Attention.
    Attend,
    /// Norm, gate, output product, residual.
    Output,
    /// The task heads.
    Heads,
}

impl Stage {
    /// All, in the order in which a pass meets them.
    pub const ALL: [Self; 6] = [Self::Embed, Self::Project, Self::Keep, Self::Attend, Self::Output, Self::Heads];

    /// In a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::Project => "project",
            Self::Keep => "keep",
            Self::Attend => "attend",
            Self::Output => "output",
            Self::Heads => "heads",
        }
    }
}

/// Any time that only grows.
pub type StageClock = Box<dyn Fn() -> Duration + Send>;

/// Adds up time by stage; without a clock it does nothing.
#[derive(Default)]
pub(super) struct Watch {
    clock: Option<StageClock>,
    since: Duration,
    spent: [Duration; Stage::ALL.len()],
}

impl Watch {
    pub(super) fn new(clock: StageClock) -> Self {
        Self { clock: Some(clock), ..Self::default() }
    }

    /// A pass begins.
    pub(super) fn begin(&mut self) {
        if let Some(clock) = &self.clock {
            self.since = clock();
        }
    }

    /// What has been done since the last lap was this stage.
    pub(super) fn lap(&mut self, stage: Stage) {
        if let Some(clock) = &self.clock {
            let now = clock();
            self.spent[stage as usize] += now.saturating_sub(self.since);
            self.since = now;
        }
    }

    /// The time of each stage since the last take.
    pub(super) fn take(&mut self) -> [Duration; Stage::ALL.len()] {
        std::mem::take(&mut self.spent)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("on", &self.clock.is_some()).field("spent", &self.spent).finish_non_exhaustive()
    }
}
