//! Planning a day from earlier days: what is money worth later today?
//!
//! Where whole earlier days are known, tick by tick ([`DayPath`]: how spend and value answered to the multiplier, and the
//! levels of value, cost and traffic), more can be said than a forecast says. Levels persist for a while and then jump
//! (categories, hours, competitors); how much of today's deviation will still hold in a later tick is a correlation, which the
//! earlier days show. [`Horizon`] learns those and solves the stochastic control problem once, backwards in time, over
//! (tick, money left, level): `F_k(b, r)` is the value that money `b` still buys when the value-to-cost level is `r`. In a tick
//! the plan bids the multiplier at which value now plus `F` of what is left is largest on average over the learned days, each
//! moved to today's levels.
//!
//! A forecast that is re-solved each tick (certainty equivalence) ignores that dear and rich hours are not known yet;
//! keeping money for the rich ones is worth several percent. Equations and sources: docs/pricing.md.

mod paths;

pub use paths::{DayPath, Grid, TickPath};

use paths::{Persistence, interpolate};

/// Grid of money left.
const BUDGETS: usize = 51;
/// Grid of levels.
const LEVELS: usize = 13;

/// Everything that is learned from earlier days; shared by all plans of the market.
#[derive(Clone, Debug)]
pub struct Horizon {
    grid: Grid,
    ticks: usize,
    paths: Vec<DayPath>,
    values: Persistence,
    costs: Persistence,
    traffic: Persistence,
    money: Vec<f64>,
    /// Lowest level and step of the level grid, by tick.
    level_grid: Vec<(f64, f64)>,
    /// `F` after each tick: [tick][level of that tick][money].
    worth: Vec<Vec<Vec<f64>>>,
}

impl Horizon {
    /// Learns from days; each day is one path for each plan that it shows, all with equal numbers of ticks. `budget_max` bounds
    /// the money that plans may have.
    ///
    /// # Errors
    /// A sentence when there are fewer than three days, or they do not match.
    pub fn learn(days: Vec<Vec<DayPath>>, grid: Grid, budget_max: f64) -> Result<Self, String> {
        let independent = days.len();
        let paths: Vec<DayPath> = days.into_iter().flatten().collect();
        let ticks = paths.first().map_or(0, |path| path.ticks.len());
        if independent < 3 || ticks < 2 {
            return Err(format!("needs 3 learned days of 2 ticks or more, got {independent} of {ticks}"));
        }
        if paths.iter().any(|path| path.ticks.len() != ticks) || budget_max <= 0.0 || budget_max.is_nan() {
            return Err("the learned days differ in their number of ticks, or no budget is positive".to_owned());
        }
        let series = |of: fn(&TickPath) -> f64| -> Vec<Vec<f64>> {
            paths.iter().map(|path| path.ticks.iter().map(of).collect()).collect()
        };
        // Values differ from plan to plan; costs and traffic are one figure a day, too few to trust their own correlations
        // alone: they are pulled to those of the values, which show where the day breaks.
        let values = Persistence::learn(&series(|tick| tick.value_level), paths.len(), None);
        let costs = Persistence::learn(&series(|tick| tick.cost_level), independent, Some(&values));
        let traffic = Persistence::learn(&series(|tick| tick.traffic), independent, Some(&values));
        #[expect(clippy::cast_precision_loss, reason = "grid positions")]
        let money = (0..BUDGETS).map(|i| budget_max * (i as f64 / (BUDGETS - 1) as f64).powf(1.5)).collect();
        let mut horizon = Self {
            grid,
            ticks,
            paths,
            values,
            costs,
            traffic,
            money,
            level_grid: Vec::new(),
            worth: vec![Vec::new(); ticks],
        };
        horizon.solve();
        Ok(horizon)
    }

    /// Backwards in time: the worth of money after each tick.
    fn solve(&mut self) {
        let ratio = |tick: &TickPath| tick.value_level - tick.cost_level;
        let ratios: Vec<Vec<f64>> = self.paths.iter().map(|path| path.ticks.iter().map(ratio).collect()).collect();
        let persistence = Persistence::learn(&ratios, ratios.len(), None);
        self.level_grid = (0..self.ticks)
            .map(|k| {
                let low = ratios.iter().map(|row| row[k]).fold(f64::INFINITY, f64::min) - 0.1;
                let high = ratios.iter().map(|row| row[k]).fold(f64::NEG_INFINITY, f64::max) + 0.1;
                #[expect(clippy::cast_precision_loss, reason = "a grid size")]
                let step = (high - low) / (LEVELS - 1) as f64;
                (low, step)
            })
            .collect();
        let mut next = vec![vec![0.0; BUDGETS]; LEVELS];
        for k in (0..self.ticks).rev() {
            let after = if k + 1 == self.ticks { next } else { self.expected(k, &next, &ratios, &persistence) };
            next = (0..LEVELS).map(|level| self.stage(k, level, &ratios, &after[level])).collect();
            self.worth[k] = after;
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a grid position")]
    fn level(&self, tick: usize, index: usize) -> f64 {
        let (low, step) = self.level_grid[tick];
        low + step * index as f64
    }

    /// Worth of money by the level of tick `k`, when only the distribution of the next level is known.
    fn expected(&self, k: usize, next: &[Vec<f64>], ratios: &[Vec<f64>], seen: &Persistence) -> Vec<Vec<f64>> {
        let kept = seen.kept[k][k + 1];
        let deviation = |row: &[f64], at: usize| row[at] - seen.mean[at];
        (0..LEVELS)
            .map(|level| {
                let center = seen.mean[k + 1] + kept * (self.level(k, level) - seen.mean[k]);
                let mut out = vec![0.0; BUDGETS];
                for row in ratios {
                    let rest = deviation(row, k + 1) - kept * deviation(row, k);
                    let (index, part) = self.level_at(k + 1, center + rest);
                    for (money, sum) in out.iter_mut().enumerate() {
                        *sum += next[index][money] * (1.0 - part) + next[index + 1][money] * part;
                    }
                }
                #[expect(clippy::cast_precision_loss, reason = "a count of paths")]
                out.iter_mut().for_each(|sum| *sum /= ratios.len() as f64);
                out
            })
            .collect()
    }

    /// Position of a level on the grid of a tick.
    fn level_at(&self, tick: usize, level: f64) -> (usize, f64) {
        let (low, step) = self.level_grid[tick];
        #[expect(clippy::cast_precision_loss, reason = "a grid size")]
        let at = ((level - low) / step).clamp(0.0, (LEVELS - 1) as f64);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the grid")]
        let index = (at as usize).min(LEVELS - 2);
        #[expect(clippy::cast_precision_loss, reason = "a grid position")]
        let part = at - index as f64;
        (index, part)
    }

    /// Best value of tick `k` and after, by money, at one level.
    fn stage(&self, k: usize, level: usize, ratios: &[Vec<f64>], after: &[f64]) -> Vec<f64> {
        let points = self.grid.points;
        let (mut spend, mut value) = (vec![0.0; points], vec![0.0; points]);
        #[expect(clippy::cast_precision_loss, reason = "a count of paths")]
        let share = 1.0 / self.paths.len() as f64;
        for (path, row) in self.paths.iter().zip(ratios) {
            let moved = self.level(k, level) - row[k];
            let tick = &path.ticks[k];
            self.grid.add_moved(&tick.spend, moved, share, &mut spend);
            self.grid.add_moved(&tick.value, moved, share * moved.exp(), &mut value);
        }
        let gain = |money: f64, point: Option<usize>| {
            let (s, v) = point.map_or((0.0, 0.0), |i| (spend[i], value[i]));
            self.outcome(money, (s, v), after)
        };
        let points = || std::iter::once(None).chain((0..points).map(Some));
        self.money.iter().map(|&money| points().map(|at| gain(money, at)).fold(0.0, f64::max)).collect()
    }

    /// Value of a tick that would spend `s` for `v` with `money`, and of what is left.
    fn outcome(&self, money: f64, (s, v): (f64, f64), after: &[f64]) -> f64 {
        if s > money { v * money / s.max(1e-12) } else { v + interpolate(&self.money, after, money - s) }
    }
}

/// One plan's way through a day.
#[derive(Clone, Debug)]
pub struct Planner<'a> {
    horizon: &'a Horizon,
    /// Highest multiplier that its goal allows.
    limit: f64,
    /// Cost level of the tick before.
    cost_level: Option<f64>,
}

impl<'a> Planner<'a> {
    /// A planner at the start of a day.
    #[must_use]
    pub fn new(horizon: &'a Horizon, limit: f64) -> Self {
        Self { horizon, limit, cost_level: None }
    }

    /// The multiplier for a tick: its level of value and traffic are known ([`TickPath`]'s terms), its costs are not.
    /// `money` is the budget left. The geometric mean of two answers that err in different ways: the stochastic program knows
    /// what waiting is worth but sees one tick's level only; the forecast carries every deviation as far as it lasts but takes
    /// the future as certain.
    #[must_use]
    pub fn multiplier(&self, tick: usize, levels: (f64, f64), money: f64) -> f64 {
        if tick >= self.horizon.ticks || money <= 0.0 {
            return 0.0;
        }
        let (stochastic, forecast) = (self.stochastic(tick, levels, money), self.forecast(tick, levels, money));
        (stochastic * forecast).sqrt().min(self.limit)
    }

    /// The multiplier of the stochastic program.
    fn stochastic(&self, tick: usize, (value_level, traffic): (f64, f64), money: f64) -> f64 {
        let h = self.horizon;
        let points = h.grid.points;
        let last = tick + 1 == h.ticks;
        let mut total = vec![0.0; points];
        let mut mean_spend = vec![0.0; points];
        for path in &h.paths {
            let seen = &path.ticks[tick];
            let more_value = value_level - seen.value_level;
            let more_traffic = traffic - seen.traffic;
            let more_cost = match self.cost_level {
                Some(level) if tick > 0 => h.costs.kept[tick - 1][tick] * (level - path.ticks[tick - 1].cost_level),
                _ => 0.0,
            };
            let moved = more_value - more_cost;
            let (mut spend, mut value) = (vec![0.0; points], vec![0.0; points]);
            h.grid.add_moved(&seen.spend, moved, (more_traffic + more_cost).exp(), &mut spend);
            h.grid.add_moved(&seen.value, moved, (more_traffic + more_value).exp(), &mut value);
            let (index, part) = h.level_at(tick, value_level - (seen.cost_level + more_cost));
            let (low, high) = (&h.worth[tick][index], &h.worth[tick][index + 1]);
            let after: Vec<f64> = low.iter().zip(high).map(|(a, b)| a * (1.0 - part) + b * part).collect();
            for point in 0..points {
                mean_spend[point] += spend[point];
                total[point] += h.outcome(money, (spend[point], value[point]), &after);
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a count of paths")]
        let paths = h.paths.len() as f64;
        let best = if last {
            // Nothing comes after: spend what is left.
            mean_spend.iter().position(|sum| sum / paths >= money).unwrap_or(points - 1)
        } else {
            (0..points).max_by(|&a, &b| total[a].total_cmp(&total[b]).then(b.cmp(&a))).unwrap_or(0)
        };
        h.grid.multiplier(best)
    }

    /// Takes in the cost level of a tick that has passed.
    pub fn see(&mut self, cost_level: f64) {
        if cost_level.is_finite() {
            self.cost_level = Some(cost_level);
        }
    }

    /// A plain forecast re-solved each tick, to compare with: the constant multiplier at which the learned days, moved to
    /// today's levels, spend `money` on average.
    #[must_use]
    pub fn forecast_multiplier(&self, tick: usize, levels: (f64, f64), money: f64) -> f64 {
        if tick >= self.horizon.ticks || money <= 0.0 {
            return 0.0;
        }
        self.forecast(tick, levels, money).min(self.limit)
    }

    fn forecast(&self, tick: usize, (value_level, traffic): (f64, f64), money: f64) -> f64 {
        let h = self.horizon;
        let mut spend = vec![0.0; h.grid.points];
        for path in &h.paths {
            let seen = &path.ticks[tick];
            for later in tick..h.ticks {
                let more_value = h.values.kept[tick][later] * (value_level - seen.value_level);
                let more_traffic = h.traffic.kept[tick][later] * (traffic - seen.traffic);
                let more_cost = match self.cost_level {
                    Some(level) if tick > 0 => {
                        h.costs.kept[tick - 1][later] * (level - path.ticks[tick - 1].cost_level)
                    }
                    _ => 0.0,
                };
                let curve = &path.ticks[later].spend;
                h.grid.add_moved(curve, more_value - more_cost, (more_traffic + more_cost).exp(), &mut spend);
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a count of paths")]
        let wanted = money * h.paths.len() as f64;
        let at = spend.iter().position(|sum| *sum >= wanted).unwrap_or(h.grid.points - 1);
        h.grid.multiplier(at)
    }
}

#[cfg(test)]
mod tests;
