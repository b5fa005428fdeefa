//! The diagnosis against its own promises: parts sum to the whole whatever the figures, and nothing is blamed for luck.

use longbow::auction::diagnose::{Cause, ChannelFigures, CreativeFigures, NotEnough, Period, diagnose};
use proptest::prelude::*;

prop_compose! {
    fn channel(name: usize)(
        chances in 0..200_000u32, bid_share in 0.0..1.0f64, win_share in 0.0..1.0f64, bid in 1.0..9_000.0f64, paid in 0.05..1.0f64,
        ctr in prop::collection::vec(0.0..0.2f64, 1..4), cvr in 0.0..0.5f64, order in 1.0..5e7f64,
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
            name: format!("c{name}"), chances, bids, bid_sum: bids * bid, wins, winning_bid_sum: wins * bid,
            spend, spend_squares: wins * (bid * paid).powi(2) * 1.5,
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
            seconds, paused_seconds: seconds * off[0], exhausted_seconds: seconds * off[1], off_seconds: seconds * off[2] * 0.5,
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
        wins,
        winning_bid_sum: wins * 2_300.0,
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
