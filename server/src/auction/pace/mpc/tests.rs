//! The solver against plain halving, the chance of a return against drawn futures.

use super::*;

/// Plain halving, down to the last digits.
fn halved(low: f64, high: f64, excess: impl Fn(f64) -> f64) -> f64 {
    if excess(high) <= 0.0 {
        return high;
    }
    let (mut low, mut high) = (low, high);
    for _ in 0..40 {
        let middle = f64::midpoint(low, high);
        if excess(middle) <= 0.0 { low = middle } else { high = middle }
    }
    low
}

#[test]
fn both_constraints_are_solved_as_halving_solves_them() {
    use crate::auction::pace::{Response, TickSeen};
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    let mut rng = StdRng::seed_from_u64(5);
    for case in 0..3_000 {
        let mut channels = [ChannelMemory::default(); CHANNELS];
        for channel in channels.iter_mut().take(rng.random_range(1..=CHANNELS)) {
            let spend = 1e6 * rng.random_range(-2.0..4.0_f64).exp();
            let value = spend * rng.random_range(-1.0..1.5_f64).exp();
            let exponent = rng.random_range(-1.0..1.0);
            let tick = TickSeen { exponent, traffic: 1.0, price_level: 0.0, impressions: 50.0, value, spend };
            channel.response = Some(Response::first(&tick, rng.random_range(-1.0..1.0)));
            channel.shift = rng.random_range(-0.3..0.3);
        }
        let ahead: Ahead = std::array::from_fn(|_| (rng.random_range(0.0..6.0), rng.random_range(-0.6..0.6)));
        let surplus = 1e6 * rng.random_range(-20.0..20.0);
        let left = 1e6 * rng.random_range(-3.0..7.0_f64).exp();
        let problem = Problem { channels: &channels, ahead, left, surplus, record: rng.random_range(0.5..1.5) };
        let budget = halved(U_MIN, U_MAX, |u| spend_ahead(&channels, &ahead, u) - left);
        let earn = problem.record / (1.0 + RETURN_SLACK);
        let returns = halved(earn.ln().clamp(U_MIN, U_MAX), U_MAX, |u| {
            let [spend, value] = ahead_of(&channels, &ahead, u);
            spend - earn * value - surplus
        });
        let found = problem.solve();
        // A tenth of a percent of the multiplier, or of the money where the curve is flat.
        let same = |a: f64, b: f64| {
            let [x, y] = [a, b].map(|u| spend_ahead(&channels, &ahead, u));
            (a - b).abs() < 4e-3 || (x / y).ln().abs() < 4e-3
        };
        assert!(same(found[0], budget), "case {case}: {} {budget}", found[0]);
        assert!(same(found[1], returns), "case {case}: {} {returns}", found[1]);
    }
}

#[test]
fn roots_are_found_in_few_steps_and_bounds_are_kept() {
    let count = std::cell::Cell::new(0);
    // The logarithm of a normal distribution function: steep below, flat above, as spend is.
    let steep = |u: f64| crate::auction::normal::log_cdf((u - 1.0) / 0.8 - 0.8) + 2.0;
    let near = root(U_MIN, U_MAX, |u| {
        count.set(count.get() + 1);
        steep(u)
    });
    assert!(steep(near).abs() < 2e-3, "{near}: {}", steep(near));
    assert!(count.get() <= 12, "{} evaluations", count.get());
    assert_eq!(root(-1.0, 2.0, |_| 3.0), -1.0);
    assert_eq!(root(-1.0, 2.0, |_| -3.0), 2.0);
    assert!((root(-1.0, 2.0, |u| u - 0.3) - 0.3).abs() < 1e-6);
    assert!((root(-1.0, 2.0, |u| if u < 0.7 { -1e9 } else { 1.0 }) - 0.7).abs() < 2e-3, "a step is narrowed down");
}

/// Results come by chance and are worth as much as those so far in the mean.
#[test]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small counts and amounts")]
fn the_chance_of_a_return_is_the_share_of_futures_that_keep_it() {
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use rand_distr::{Distribution, LogNormal, Poisson};
    let seen = |results: u64, earned: f64| PlanObservation {
        budget: Micros(0),
        spent: Micros(0),
        earned: Micros(earned as i64),
        results,
        impressions: 0,
        expected: Micros(0),
        starts_at: 0,
        ends_at: 0,
        allowance: Micros(0),
        period_ends_at: 0,
        channels: Default::default(),
    };
    let mut rng = StdRng::seed_from_u64(8);
    assert_eq!(chance(&seen(0, 0.0), (0.0, 5e6), 1e6), None, "nothing came yet: nothing is known of the luck");
    for (results, to_come, spend) in [(40_u32, 60.0, 100.0), (40, 60.0, 115.0), (200, 300.0, 520.0), (25, 40.0, 62.0)] {
        let came = f64::from(results);
        // Orders of mean 1 that differ by a factor of 1.5, so with a variance of .2.
        let spread = 1.2_f64.ln();
        let (count, worth) = (Poisson::new(to_come).unwrap(), LogNormal::new(-spread / 2.0, spread.sqrt()).unwrap());
        let kept = (0..20_000).filter(|_| {
            let more: f64 = (0..count.sample(&mut rng) as u64).map(|_| worth.sample(&mut rng)).sum();
            came + more >= (1.0 - MISS) * spend
        });
        let share = kept.count() as f64 / 20_000.0;
        let found = chance(&seen(u64::from(results), came * 1e6), (came * 1e6, to_come * 1e6), spend * 1e6).unwrap();
        assert!((found - share).abs() < 0.04, "{results} {to_come} {spend}: {found} {share}");
    }
}
