//! The part of a plan that an impression belongs to: an arm of its experiment and a channel.

use super::PlanResults;
use crate::auction::slot::{CHANNELS, Channel};
use crate::money::Micros;
use crate::plans::{Arm, Plan};

/// Number of cells of a plan.
pub const CELLS: usize = 2 * CHANNELS;

/// One arm in one channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cell {
    /// Whose policy bids.
    pub arm: Arm,
    /// Where.
    pub channel: Channel,
}

impl Cell {
    /// The cell that a user's impressions have in a plan. `user` is any name that stays with the user; for a user nobody may
    /// know, the auction's.
    #[must_use]
    pub fn of(plan: &Plan, user: &str, channel: Channel) -> Self {
        let arm = plan.strategy.experiment.map_or(Arm::First, |experiment| experiment.arm(&plan.id, user));
        Self { arm, channel }
    }

    /// Position among the [`CELLS`].
    #[must_use]
    pub fn index(self) -> usize {
        self.arm as usize * CHANNELS + self.channel as usize
    }
}

/// Results of a plan by cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CellResults(pub [PlanResults; CELLS]);

impl From<PlanResults> for CellResults {
    /// All of it in the first arm on the exchange.
    fn from(results: PlanResults) -> Self {
        let mut cells = Self::default();
        cells.0[0] = results;
        cells
    }
}

impl CellResults {
    /// Results of one arm by channel.
    #[must_use]
    pub fn arm(&self, arm: Arm) -> [PlanResults; CHANNELS] {
        std::array::from_fn(|channel| self.0[arm as usize * CHANNELS + channel])
    }

    /// Sum over the cells.
    #[must_use]
    pub fn total(&self) -> PlanResults {
        self.0.iter().fold(PlanResults::default(), |sum, cell| sum.plus(cell))
    }

    /// Divides what the ledger says the plan has spent among the cells: by what was counted as paid in each, else by
    /// impressions; spend of which nothing is known is the first cell's. Sums exactly to `spent`.
    #[must_use]
    pub fn spent(&self, spent: Micros) -> [Micros; CELLS] {
        let mut parts = [Micros::ZERO; CELLS];
        let paid = self.0.map(|cell| i128::from(cell.paid.0.max(0)));
        let seen = self.0.map(|cell| i128::from(cell.impressions));
        let weights = if paid.iter().sum::<i128>() > 0 { paid } else { seen };
        let total: i128 = weights.iter().sum();
        let mut rest = spent.0;
        if total > 0 {
            for (part, weight) in parts.iter_mut().zip(weights) {
                part.0 = i64::try_from(i128::from(spent.0) * weight / total).unwrap_or(0);
                rest -= part.0;
            }
        }
        // What rounding left goes where most was spent.
        let most = (0..CELLS).rev().max_by_key(|&cell| weights[cell]).unwrap_or(0);
        parts[most].0 += rest;
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spend_is_divided_without_loss() {
        let mut cells = CellResults::default();
        assert_eq!(cells.spent(Micros(10))[0], Micros(10), "nothing is known");
        cells.0[1].impressions = 3;
        cells.0[6].impressions = 1;
        assert_eq!(cells.spent(Micros(10)), [0, 8, 0, 0, 0, 0, 2, 0].map(Micros), "by impressions: 7.5 and 2.5");
        cells.0[6].paid = Micros(i64::MAX / 3);
        cells.0[2].paid = Micros(i64::MAX / 3);
        for spent in [0, 1, 7, i64::MAX] {
            let parts = cells.spent(Micros(spent));
            assert_eq!(parts.iter().map(|part| i128::from(part.0)).sum::<i128>(), i128::from(spent));
            assert!(parts[2].0.abs_diff(parts[6].0) <= 1 && parts[1].0 == 0);
        }
    }
}
