//! Evidence, suggestions and the summary.

use super::own::OwnBids;
use super::steps::Pair;
use super::{Cause, ChannelFigures, Evidence, Part, Period, Whole};
use std::fmt::Write as _;

/// Writes evidence for every part and a suggestion for those that moved.
pub(super) fn explain(parts: &mut [Part], pairs: &[Pair], periods: (&Period, &Period)) {
    for part in parts {
        part.evidence = evidence(part, pairs, periods);
        if part.moved {
            part.suggestion = suggestion(part);
        }
    }
}

fn over(count: f64, base: f64) -> f64 {
    if base > 0.0 { count / base } else { 0.0 }
}

fn figure(what: impl Into<String>, before: f64, after: f64) -> Evidence {
    Evidence { what: what.into(), before, after }
}

fn sums(pairs: &[Pair], of: impl Fn(&ChannelFigures) -> f64) -> [f64; 2] {
    [pairs.iter().map(|pair| of(&pair.before)).sum(), pairs.iter().map(|pair| of(&pair.after)).sum()]
}

fn rate(what: &str, pairs: &[Pair], count: fn(&ChannelFigures) -> f64, base: fn(&ChannelFigures) -> f64) -> Evidence {
    let (count, base) = (sums(pairs, count), sums(pairs, base));
    figure(what, over(count[0], base[0]), over(count[1], base[1]))
}

/// What a step made of the one before (geometric mean over bids) in both periods: 0 the multiplier, 1 caps, 2 shading and floors.
fn stage(pairs: &[Pair], step: usize) -> Option<(f64, f64)> {
    let of = |side: fn(&Pair) -> &ChannelFigures| {
        let mut own = OwnBids::default();
        pairs.iter().for_each(|pair| own.add(&side(pair).own));
        (own.count > 0.0).then(|| own.shares()[step])
    };
    Some((of(|pair| &pair.before)?, of(|pair| &pair.after)?))
}

fn evidence(part: &Part, pairs: &[Pair], (before, after): (&Period, &Period)) -> Vec<Evidence> {
    let hours = |of: fn(&Period) -> f64| (of(before) / 3_600.0, of(after) / 3_600.0);
    let win_rate = || rate("wins per chance", pairs, |c| c.wins, |c| c.chances);
    let price = || rate("price of a win, micros", pairs, |c| c.spend, |c| c.wins);
    let bid = || rate("mean bid, micros", pairs, |c| c.bid_sum, |c| c.bids);
    match part.cause {
        Cause::Traffic => {
            let name = part.name.as_deref().unwrap_or_default();
            let Some(pair) = pairs.iter().find(|pair| pair.before.name == name) else { return Vec::new() };
            let hourly = |channel: &ChannelFigures, p: &Period| over(channel.chances * 3_600.0, p.live_seconds());
            vec![figure("chances an hour live", hourly(&pair.before, before), hourly(&pair.after, after))]
        }
        Cause::TrafficQuality | Cause::WinRate => vec![win_rate(), bid()],
        Cause::Price => vec![price(), bid()],
        Cause::ClickRate | Cause::CreativeMix => match &part.name {
            Some(name) => {
                let of = |pick: fn(&super::CreativeFigures) -> f64| {
                    sums(pairs, |c| c.creatives.iter().filter(|one| one.name == *name).map(pick).sum())
                };
                let (clicks, shown) = (of(|c| c.clicks), of(|c| c.shown));
                vec![
                    figure("clicks per impression", over(clicks[0], shown[0]), over(clicks[1], shown[1])),
                    figure("impressions", shown[0], shown[1]),
                ]
            }
            None => vec![rate("clicks per impression", pairs, ChannelFigures::clicks, |c| c.wins)],
        },
        Cause::ConversionRate => vec![
            rate("orders per click", pairs, |c| c.conversions, ChannelFigures::clicks),
            figure("orders", sums(pairs, |c| c.conversions)[0], sums(pairs, |c| c.conversions)[1]),
        ],
        Cause::OrderValue => vec![rate("value of an order, micros", pairs, |c| c.value, |c| c.conversions)],
        Cause::Target => {
            vec![figure("bid per predicted value (goal)", before.target_factor, after.target_factor), bid()]
        }
        Cause::Pacing => {
            let (then, now) = stage(pairs, 0).unwrap_or((before.multiplier, after.multiplier));
            vec![figure("multiplier", then, now), bid()]
        }
        Cause::HighestBid => {
            let (then, now) = stage(pairs, 1).unwrap_or((1.0, 1.0));
            vec![
                figure("share of what was wanted that may be bid", then, now),
                figure("highest bid, micros", before.max_bid, after.max_bid),
            ]
        }
        Cause::Shading => {
            let (then, now) = stage(pairs, 2).unwrap_or((1.0, 1.0));
            vec![figure("share of what may be bid that is offered", then, now), win_rate(), bid()]
        }
        Cause::Budget => {
            let (then, now) = hours(|p| p.exhausted_seconds);
            vec![figure("hours without budget", then, now), figure("budget, micros", before.budget, after.budget)]
        }
        Cause::Pause => {
            let (then, now) = hours(|p| p.paused_seconds);
            vec![figure("hours paused", then, now)]
        }
        Cause::Schedule => {
            let (then, now) = hours(|p| p.off_seconds);
            vec![figure("hours out of schedule", then, now)]
        }
    }
}

fn suggestion(part: &Part) -> String {
    let fell = part.order_value < 0.0 || part.return_on_spend.is_some_and(|part| part < 0.0);
    let name = part.name.as_deref().unwrap_or("the rest");
    let text = match (part.cause, fell) {
        (Cause::Traffic, true) if part.order_value < 0.0 => {
            return format!(
                "{name} offers fewer auctions: check that it is still connected and that no block, size or deal keeps the plan out"
            );
        }
        (Cause::Traffic, _) => {
            return format!(
                "{name} offers more auctions than before: watch what they bring before bidding higher there"
            );
        }
        (Cause::TrafficQuality, true) => {
            "the users on offer are worth less by prediction: widen the products, or wait for the season"
        }
        (Cause::TrafficQuality, false) => {
            "the users on offer are worth more by prediction: a higher budget would be used"
        }
        (Cause::WinRate, true) => "others bid more: a lower return target wins auctions back, if the margin bears it",
        (Cause::WinRate, false) => "others bid less: a good time for a higher budget",
        (Cause::Price, true) => {
            "wins cost more at the same bid: raise the return target to leave the dearest auctions out"
        }
        (Cause::Price, false) => "wins cost less at the same bid: a higher budget buys more at this return",
        (Cause::ClickRate, true) => {
            return format!("{name} is clicked less than before: it may be worn out; add fresh creatives beside it");
        }
        (Cause::ClickRate, false) => return format!("{name} is clicked more than before: make more like it"),
        (Cause::CreativeMix, true) => {
            "weaker creatives are shown more: check what was added or removed, new ones are still being tried"
        }
        (Cause::CreativeMix, false) => "better creatives are shown more: nothing to do",
        (Cause::ConversionRate, true) => {
            "clicks lead to fewer orders: open the landing page, try an order, and check that orders are still reported"
        }
        (Cause::ConversionRate, false) => "clicks lead to more orders: a higher budget would bring more of them",
        (Cause::OrderValue, true) => {
            "orders are smaller: check discounts, stock of the dearer products and how values are reported"
        }
        (Cause::OrderValue, false) => "orders are larger: nothing to do",
        (Cause::Target, _) => "the plan's target was changed: if this is not what was meant, set it back",
        (Cause::Pacing, true) => {
            "the controller bids lower to keep budget or target: check whether target and budget go together"
        }
        (Cause::Pacing, false) => "the controller bids higher to use the budget: watch the return",
        (Cause::HighestBid, true) => {
            "the highest bid holds more bids back: raise it, or see whether the budget was nearly used up"
        }
        (Cause::HighestBid, false) => "the highest bid holds fewer bids back: watch the return",
        (Cause::Shading, _) => {
            "first-price bids offer another share of what they are worth: the win rates learned there changed, as they do when \
             rivals come or go; if it comes with no such change, check that win notices arrive"
        }
        (Cause::Budget, true) => "the budget was used up for longer: raise it, or spread it by a later end",
        (Cause::Budget, false) => "the budget lasts longer than before: nothing to do",
        (Cause::Pause, true) => "the plan was paused: resume it if that is over",
        (Cause::Pause, false) => "the plan is no longer paused: nothing to do",
        (Cause::Schedule, true) => "the plan was out of its schedule: move its start or end",
        (Cause::Schedule, false) => "the plan runs for longer than before: nothing to do",
    };
    text.to_owned()
}

/// A cause in words.
fn named(part: &Part) -> String {
    let what = match part.cause {
        Cause::Traffic => "traffic of",
        Cause::TrafficQuality => "the worth of the users on offer",
        Cause::WinRate => "competition: how often we win",
        Cause::Price => "competition: what a win costs",
        Cause::ClickRate => "the click rate of",
        Cause::CreativeMix => "which creatives were shown",
        Cause::ConversionRate => "the conversion rate",
        Cause::OrderValue => "the value of an order",
        Cause::Target => "the plan's target",
        Cause::Pacing => "the controller's bids",
        Cause::HighestBid => "the plan's highest bid",
        Cause::Shading => "first-price shading",
        Cause::Budget => "an empty budget",
        Cause::Pause => "a pause",
        Cause::Schedule => "the schedule",
    };
    match (&part.name, part.cause) {
        (Some(name), _) => format!("{what} {name}"),
        (None, Cause::ClickRate) => format!("{what} all creatives"),
        (None, _) => what.to_owned(),
    }
}

/// What changed, the main cause, and the main cause of the return's change where that is another. `parts`: those that moved first, the
/// largest first.
pub(super) fn summary(value: Whole, spend: Whole, parts: &[Part]) -> String {
    let mut text = String::new();
    let percent = |whole: Whole| 100.0 * (whole.after / whole.before - 1.0);
    let returns = super::parts::returns(value, spend);
    let direction = returns.map_or("", |returns| if returns.after < returns.before { "fell" } else { "rose" });
    if let Some(returns) = returns {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "Return on spend {direction} from {:.2} to {:.2} ({:+.0}%), order value a day by {:+.0}%, spend by {:+.0}%.",
            returns.before,
            returns.after,
            percent(returns),
            percent(value),
            percent(spend)
        );
    } else {
        let _ = write!(
            text,
            "Order value a day went from {:.2} to {:.2}, spend from {:.2} to {:.2}.",
            value.before / 1e6,
            value.after / 1e6,
            spend.before / 1e6,
            spend.after / 1e6
        );
    }
    let Some(main) = parts.first().filter(|part| part.moved) else {
        text.push_str(" Nothing moved by more than luck explains.");
        return text;
    };
    let _ = write!(text, " Main cause: {}.", named(main));
    if let Some(returns) = returns {
        let along = |part: &Part| part.ln_return * (returns.after / returns.before).ln().signum();
        let of_return = parts.iter().max_by(|a, b| along(a).total_cmp(&along(b))).filter(|part| along(part) > 0.0);
        if let Some(part) = of_return.filter(|part| (part.cause, &part.name) != (main.cause, &main.name)) {
            let _ = write!(text, " The return {direction} mainly by {}.", named(part));
        }
    }
    text
}
