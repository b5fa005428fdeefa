use super::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// (value, cost) of each auction, by tick.
type Day = Vec<Vec<(f64, f64)>>;

/// A day of two halves whose value levels are drawn anew: 8 ticks of 60 auctions.
fn day(rng: &mut StdRng) -> Day {
    let levels = [rng.random_range(0.5..2.0), rng.random_range(0.5..2.0)];
    (0..8)
        .map(|tick| {
            let draw = |rng: &mut StdRng| (levels[tick / 4] * rng.random_range(0.5..1.5), rng.random_range(0.5..1.5));
            (0..60).map(|_| draw(rng)).collect()
        })
        .collect()
}

fn path(day: &[Vec<(f64, f64)>], grid: &Grid) -> DayPath {
    DayPath { ticks: day.iter().map(|tick| TickPath::of(tick, grid)).collect() }
}

/// Plays a day; returns (value, spend).
fn play(
    day: &[Vec<(f64, f64)>],
    budget: f64,
    mut choose: impl FnMut(usize, (f64, f64), f64) -> f64,
    grid: &Grid,
) -> (f64, f64) {
    let (mut value, mut left) = (0.0, budget);
    for (k, tick) in day.iter().enumerate() {
        let seen = TickPath::of(tick, grid);
        let multiplier = choose(k, (seen.value_level, seen.traffic), left);
        for &(worth, cost) in tick {
            if multiplier * worth >= cost && cost <= left {
                value += worth;
                left -= cost;
            }
        }
    }
    (value, budget - left)
}

#[test]
fn keeps_money_for_rich_halves_better_than_any_fixed_multiplier_chosen_before_the_day() {
    let grid = Grid::between(0.1, 10.0);
    let mut rng = StdRng::seed_from_u64(3);
    let learned: Vec<_> = (0..30).map(|_| vec![path(&day(&mut rng), &grid)]).collect();
    let budget = 60.0;
    let horizon = Horizon::learn(learned, grid, budget).unwrap();
    let days: Vec<_> = (0..40).map(|_| day(&mut rng)).collect();
    let total = |run: &dyn Fn(&Day) -> (f64, f64)| days.iter().map(|d| run(d).0).sum::<f64>();
    let planned = total(&|d| {
        let planner = Planner::new(&horizon, 10.0);
        play(d, budget, |k, level, left| planner.multiplier(k, level, left), &grid)
    });
    let fixed = (0..60).map(|i| (-1.5 + 0.05 * f64::from(i)).exp());
    let best = fixed.map(|m| total(&|d| play(d, budget, |_, _, _| m, &grid))).fold(0.0, f64::max);
    assert!(planned > 1.05 * best, "{planned} against {best}");
    for d in &days {
        let planner = Planner::new(&horizon, 10.0);
        assert!(play(d, budget, |k, level, left| planner.multiplier(k, level, left), &grid).1 <= budget);
    }
}

#[test]
fn too_few_or_unequal_days_are_refused() {
    let grid = Grid::between(0.1, 10.0);
    let mut rng = StdRng::seed_from_u64(1);
    let mut days: Vec<_> = (0..3).map(|_| vec![path(&day(&mut rng), &grid)]).collect();
    assert!(Horizon::learn(days[..2].to_vec(), grid, 10.0).is_err());
    assert!(Horizon::learn(days.clone(), grid, 0.0).is_err());
    days[1][0].ticks.pop();
    assert!(Horizon::learn(days, grid, 10.0).is_err());
}

#[test]
fn curves_moved_off_the_grid_stay_within_it() {
    let grid = Grid::between(0.5, 2.0);
    let tick = TickPath::of(&[(1.0, 1.0), (1.0, 1.5), (0.0, 1.0)], &grid);
    for moved in [-100.0, -0.3, 0.0, 0.3, 100.0] {
        let mut out = vec![0.0; tick.spend.len()];
        grid.add_moved(&tick.spend, moved, 1.0, &mut out);
        assert!(out.windows(2).all(|pair| pair[0] <= pair[1]) && out.iter().all(|x| (0.0..=2.5).contains(x)));
    }
}
