//! The diagnosis against its own promises: parts sum to the whole whatever the figures, and nothing is blamed for luck.

use longbow::auction::diagnose::own::OwnBids;
use longbow::auction::diagnose::{Cause, ChannelFigures, CreativeFigures, NotEnough, Period, diagnose};
use longbow::auction::price::Steps;
use longbow::money::Micros;
use proptest::prelude::*;

/// Bids of value, multiplier and shading, under a cap.
fn own_bids(bids: &[(i64, f64, f64)], cap: i64) -> OwnBids {
    let mut own = OwnBids::default();
    for &(value, multiplier, share) in bids {
        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "small amounts")]
        let times = |amount: i64, by: f64| (amount as f64 * by) as i64;
        let wanted = times(value, multiplier);
        let affordable = wanted.min(cap);
        let offered = Micros(times(affordable, share));
        own.note(Steps { value: Micros(value), wanted: Micros(wanted), affordable: Micros(affordable), offered });
    }
    own
}

prop_compose! {
    fn channel(name: usize)(
        chances in 0..200_000u32, bid_share in 0.0..1.0f64, win_share in 0.0..1.0f64, bid in 1.0..9_000.0f64, paid in 0.05..1.0f64,
        ctr in prop::collection::vec(0.0..0.2f64, 1..4), cvr in 0.0..0.5f64, order in 1.0..5e7f64,
        own in prop::collection::vec((1..20_000i64, 0.1..4.0f64, 0.2..1.0f64), 0..6), cap in 500..20_000i64,
    ) -> ChannelFigures {
        let chances = f64::from(chances);
        let bids = (chances * bid_share).floor();
        let wins = (bids * win_share).floor();
        let spend = wins * bid * paid;
        let each = (wins / 4.0).floor();
        let creatives: Vec<CreativeFigures> = ctr.iter().enumerate().map(|(at, rate)| CreativeFigures {
            name: format!("k{at}"), shown: each, clicks: (each * rate).floor(),
        }).collect();
        let clicks: f64 = creatives.iter().map(|c| c.clicks).sum();
        let conversions = (clicks * cvr).floor();
        ChannelFigures {
            name: format!("c{name}"), chances, bids, bid_sum: bids * bid, wins, winning_bid_sum: wins * bid, winning_ln_sum: wins * bid.ln(),
            own: own_bids(&own, cap), spend, spend_squares: wins * (bid * paid).powi(2) * 1.5,
            conversions, value: conversions * order, value_squares: conversions * order * order * 1.2, creatives,
        }
    }
}

prop_compose! {
    fn period()(
        channels in (0..5usize).prop_flat_map(|count| (0..count).map(channel).collect::<Vec<_>>()),
        hours in 1.0..100.0f64, off in prop::array::uniform3(0.0..0.4f64), target in 0.1..10.0f64, multiplier in 0.05..5.0f64,
    ) -> Period {
        let seconds = hours * 3_600.0;
        Period {
            max_bid: 1e4, seconds, paused_seconds: seconds * off[0], exhausted_seconds: seconds * off[1], off_seconds: seconds * off[2] * 0.5,
            target_factor: 1.0 / target, multiplier, budget: 1e9, channels,
        }
    }
}

fn close(sum: f64, change: f64, scale: f64) -> bool {
    (sum - change).abs() <= 1e-8 * scale.abs().max(1.0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn parts_sum_to_the_whole(before in period(), after in period()) {
        let told = match diagnose(&before, &after) {
            Ok(told) => told,
            Err(error) => {
                let wins = |p: &Period| p.channels.iter().map(|c| c.wins).sum::<f64>();
                prop_assert_eq!(error, NotEnough::NothingBought);
                prop_assert!(wins(&before) + wins(&after) <= 0.0);
                return Ok(());
            }
        };
        let sum = |of: fn(&longbow::auction::diagnose::Part) -> f64| told.parts.iter().map(of).sum::<f64>();
        let (value, spend) = (told.order_value, told.spend);
        prop_assert!(close(sum(|p| p.order_value), value.after - value.before, value.before.max(value.after)), "{told:?}");
        prop_assert!(close(sum(|p| p.spend), spend.after - spend.before, spend.before.max(spend.after)), "{told:?}");
        if let Some(whole) = told.return_on_spend {
            let total: f64 = told.parts.iter().filter_map(|p| p.return_on_spend).sum();
            // A channel that only one period has gives its amounts exactly; its share of the return's logarithm is rounded.
            prop_assert!((total - (whole.after - whole.before)).abs() <= 1e-6 * whole.before.max(whole.after), "{told:?}");
        }
        for part in &told.parts {
            prop_assert!([part.order_value, part.spend, part.sigmas].iter().all(|x| x.is_finite()), "{part:?}");
            prop_assert!(part.moved || part.suggestion.is_empty());
        }
    }

    #[test]
    fn the_way_back_is_the_way_there(before in period(), after in period()) {
        let (Ok(there), Ok(back)) = (diagnose(&before, &after), diagnose(&after, &before)) else { return Ok(()) };
        for part in &there.parts {
            let Some(other) = back.parts.iter().find(|p| (p.cause, &p.name) == (part.cause, &part.name)) else { continue };
            let scale = there.order_value.before.max(there.order_value.after);
            prop_assert!(close(part.order_value, -other.order_value, scale), "{part:?} {other:?}");
        }
    }
}

/// A plan's day with the given click rate and budget time.
fn day(click_rate: f64, exhausted_hours: f64) -> Period {
    let live = 1.0 - exhausted_hours / 24.0;
    let wins = (60_000.0 * live).round();
    let clicks = (wins * click_rate).round();
    let conversions = (clicks * 0.1).round();
    let channel = ChannelFigures {
        name: "site.example".to_owned(),
        chances: (150_000.0 * live).round(),
        bids: (150_000.0 * live).round(),
        bid_sum: 150_000.0 * live * 2_000.0,
        own: OwnBids::default(),
        wins,
        winning_bid_sum: wins * 2_300.0,
        winning_ln_sum: wins * 2_300.0f64.ln(),
        spend: wins * 1_400.0,
        spend_squares: wins * 1_400.0 * 1_400.0 * 1.3,
        conversions,
        value: conversions * 1e6,
        value_squares: conversions * 1.2e12,
        creatives: vec![CreativeFigures { name: "red".to_owned(), shown: wins, clicks }],
    };
    Period {
        seconds: 86_400.0,
        exhausted_seconds: exhausted_hours * 3_600.0,
        target_factor: 0.4,
        multiplier: 1.0,
        budget: 1e8,
        channels: vec![channel],
        ..Period::default()
    }
}

#[test]
fn one_thing_that_changed_is_the_only_one_blamed() {
    let told = diagnose(&day(0.05, 0.0), &day(0.02, 0.0)).unwrap();
    assert_eq!((told.cause, told.cause_name.as_deref()), (Some(Cause::ClickRate), Some("red")));
    assert_eq!(told.parts.iter().filter(|part| part.moved).count(), 1);
    assert!(told.summary.contains("fell") && told.parts[0].suggestion.contains("red"), "{told:?}");
    let told = diagnose(&day(0.05, 0.0), &day(0.05, 12.0)).unwrap();
    assert_eq!(told.cause, Some(Cause::Budget), "{told:?}");
    assert!(told.parts[0].return_on_spend.unwrap().abs() < 1e-6, "half the time, the same return");
    assert!((told.parts[0].order_value / told.order_value.before + 0.5).abs() < 1e-3);
    let told = diagnose(&day(0.05, 0.0), &day(0.051, 0.0)).unwrap();
    assert_eq!(told.cause, None, "{told:?}");
    assert!(told.summary.ends_with("Nothing moved by more than luck explains."));
}

#[test]
fn the_sentence_names_what_moved_the_return_where_something_else_moved_the_volume() {
    let told = diagnose(&day(0.05, 0.0), &day(0.04, 20.0)).unwrap();
    assert_eq!(told.cause, Some(Cause::Budget), "{told:?}");
    assert!(
        told.summary.ends_with("Main cause: an empty budget. The return fell mainly by the click rate of red."),
        "{told:?}"
    );
    let told = diagnose(&day(0.05, 0.0), &day(0.05, 20.0)).unwrap();
    assert!(told.summary.ends_with("Main cause: an empty budget."), "{told:?}");
}

#[test]
fn nothing_is_said_without_figures() {
    assert_eq!(diagnose(&Period::default(), &day(0.05, 0.0)), Err(NotEnough::NoLength("earlier")));
    let empty = Period { seconds: 60.0, ..Period::default() };
    assert_eq!(diagnose(&empty, &empty), Err(NotEnough::NothingBought));
    assert!(diagnose(&empty, &day(0.05, 0.0)).is_ok());
}

/// A day of first-price bids under a win-rate model: bids of values around 2,000 micros, of which a share of `(a / value)^b` is offered
/// and at most `cap` is bid at all.
fn shaded_day(multiplier: f64, (a, b): (f64, f64), cap: f64) -> Period {
    let mut period = day(0.05, 0.0);
    let channel = &mut period.channels[0];
    let (mut wins, mut paid) = (0.0, 0.0);
    let (mut winning, mut winning_ln, mut chances) = (0.0, 0.0, 0.0);
    for step in 1..2_000 {
        // Values and the others' bids: both are spread by half their size.
        let value = 2_000.0 * (0.5 * (f64::from(step) / 2_000.0 - 0.5) * 6.0).exp();
        let weight = (-0.5 * ((f64::from(step) / 2_000.0 - 0.5) * 6.0).powi(2)).exp();
        let wanted = value * multiplier;
        let affordable = wanted.min(cap);
        let offered = affordable * (a / affordable).powf(b).min(1.0);
        #[expect(clippy::cast_possible_truncation, reason = "a few thousand micros")]
        let money = |amount: f64| Micros(amount.round() as i64);
        let mut one = OwnBids::default();
        let steps = Steps {
            value: money(value),
            wanted: money(wanted),
            affordable: money(affordable),
            offered: money(offered),
        };
        one.note(steps);
        one.count *= weight;
        one.ln = one.ln.map(|sum| sum * weight);
        one.squares = one.squares.map(|sum| sum * weight);
        one.products = one.products.map(|sum| sum * weight);
        channel.own.add(&one);
        let won = weight / (1.0 + (1_200.0 / offered).powi(3));
        wins += won;
        paid += won * offered;
        winning += won * offered;
        winning_ln += won * offered.ln();
        chances += weight;
    }
    let scale = channel.chances / chances;
    (channel.wins, channel.spend, channel.winning_bid_sum) = (wins * scale, paid * scale, winning * scale);
    channel.winning_ln_sum = winning_ln * scale;
    channel.spend_squares = channel.spend * channel.spend / channel.wins * 1.3;
    let clicks = (channel.wins * 0.05).round();
    channel.creatives[0].shown = channel.wins;
    channel.creatives[0].clicks = clicks;
    channel.conversions = (clicks * 0.1).round();
    channel.value = channel.conversions * 1e6;
    channel.value_squares = channel.conversions * 1.2e12;
    (period.multiplier, period.max_bid) = (multiplier, cap);
    period
}

#[test]
fn a_multiplier_that_shading_and_the_highest_bid_take_back_is_not_told_as_the_users_worth() {
    let moved = |told: &longbow::auction::diagnose::Diagnosis| -> Vec<Cause> {
        told.parts.iter().filter(|part| part.moved).map(|part| part.cause).collect()
    };
    let learned = (900.0, 0.6);
    // The controller alone, with bids shaded towards what usually wins.
    let told = diagnose(&shaded_day(0.7, learned, 1e6), &shaded_day(1.6, learned, 1e6)).unwrap();
    assert_eq!(moved(&told), [Cause::Pacing], "{told:?}");
    // Far above a highest bid that nobody changed, it does next to nothing.
    let told = diagnose(&shaded_day(3.0, learned, 2_500.0), &shaded_day(12.0, learned, 2_500.0)).unwrap();
    assert!(moved(&told).iter().all(|cause| *cause == Cause::Pacing), "{told:?}");
    // The win-rate model alone.
    let told = diagnose(&shaded_day(1.0, learned, 1e6), &shaded_day(1.0, (500.0, 0.6), 1e6)).unwrap();
    assert_eq!(moved(&told), [Cause::Shading], "{told:?}");
    // The highest bid alone.
    let told = diagnose(&shaded_day(1.5, learned, 5_000.0), &shaded_day(1.5, learned, 1_000.0)).unwrap();
    assert_eq!(moved(&told), [Cause::HighestBid], "{told:?}");
}
