//! Twenty-four things that can happen to a plan.

use super::world::Truth;

/// A change of the truth.
pub(super) enum Change {
    /// Of the first day.
    Before(fn(&mut Truth)),
    /// Of the second.
    After(fn(&mut Truth)),
}

/// One planted fault.
pub(super) struct Fault {
    pub(super) name: &'static str,
    /// What the diagnosis must name.
    pub(super) cause: &'static str,
    /// What else moves with it, for good reasons.
    with: &'static [&'static str],
    pub(super) changes: Vec<Change>,
}

impl Fault {
    /// True for a part that this fault moves.
    pub(super) fn may_move(&self, part: &str) -> bool {
        let begins =
            |prefix: &str| part == prefix || part.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(':'));
        begins(self.cause) || self.with.iter().any(|with| begins(with))
    }
}

fn fault(name: &'static str, cause: &'static str, with: &'static [&'static str], apply: fn(&mut Truth)) -> Fault {
    Fault { name, cause, with, changes: vec![Change::After(apply)] }
}

/// Those of [`faults`], and those of bids that are shaded. Where the winner pays its own bid, a price war teaches the win rates too.
pub(super) fn first_price_faults() -> Vec<Fault> {
    let mut all = faults();
    for fault in all.iter_mut().filter(|fault| fault.cause == "win_rate") {
        fault.with = &["price", "shading"];
    }
    all.extend([
        fault("what was learned of win rates is lost", "shading", &[], |t| t.offer = |_| 1.0),
        fault("bids are shaded too far", "shading", &[], |t| t.offer = |share| 0.7 * share),
        fault("the users are worth less", "traffic_quality", &[], |t| t.worth *= 0.6),
        fault("the users are worth more", "traffic_quality", &[], |t| t.worth *= 1.5),
        // A known limit: a cap cuts off the tail of our bids that the market's form supposes, and the rest is told as competition.
        fault("the highest bid was lowered", "highest_bid", &["win_rate"], |t| t.max_bid = 1_200.0),
    ]);
    all
}

/// All of them in a second-price market. A price war moves the win rate and the price of what is still won: either is the competition's part.
pub(super) fn faults() -> Vec<Fault> {
    let mut all = vec![
        fault("price war everywhere", "win_rate", &["price"], |t| t.level.iter_mut().for_each(|x| *x *= 1.6)),
        fault("price war in the largest channel", "win_rate", &["price"], |t| t.level[0] *= 2.5),
        fault("a rival left", "win_rate", &["price"], |t| t.level.iter_mut().for_each(|x| *x *= 0.6)),
        fault("worn-out creative", "click_rate:red", &[], |t| t.click_rate[0] *= 0.35),
        fault("second creative fades", "click_rate:blue", &[], |t| t.click_rate[1] *= 0.3),
        fault("a creative catches on", "click_rate:green", &[], |t| t.click_rate[2] *= 2.6),
        fault("the weak creative takes over", "creative_mix", &[], |t| {
            t.click_rate[3] = 0.028;
            t.shown = [0.02, 0.03, 0.05, 0.9];
        }),
        fault("broken landing page", "conversion_rate", &[], |t| t.conversion *= 0.15),
        fault("slow checkout", "conversion_rate", &[], |t| t.conversion *= 0.55),
        fault("half of the orders not reported", "conversion_rate", &[], |t| t.conversion *= 0.5),
        fault("a better page", "conversion_rate", &[], |t| t.conversion *= 1.7),
        fault("deep discounts", "order_value", &[], |t| t.order *= 0.55),
        fault("dearer products ordered", "order_value", &[], |t| t.order *= 1.6),
        fault("target set far too high", "target", &[], |t| t.target *= 2.0),
        fault("target set too low", "target", &[], |t| t.target *= 0.6),
        fault("the controller throttles", "pacing", &[], |t| t.multiplier *= 0.5),
        fault("the controller overbids", "pacing", &[], |t| t.multiplier *= 1.9),
        fault("paused for ten hours", "pause", &[], |t| t.paused = (9, 19)),
        fault("the schedule ended at noon", "schedule", &[], |t| t.ends = 12),
        fault("the largest channel was lost", "traffic:news", &[], |t| t.traffic[0] = 0.0),
        fault("a middling channel was lost", "traffic:weather", &[], |t| t.traffic[2] = 0.0),
        fault("a poor channel floods in", "traffic:games", &[], |t| t.traffic[1] *= 4.0),
        fault("nothing happened", "nothing", &[], |_| {}),
    ];
    // The traffic of a paused or shortened day is that of other hours; chances an hour then differ for that reason alone.
    for fault in &mut all {
        if matches!(fault.cause, "pause" | "schedule") {
            fault.with = &["traffic"];
        }
    }
    all.push(Fault {
        name: "the budget was cut",
        cause: "budget",
        // It is gone before the evening, when there is more traffic an hour.
        with: &["traffic"],
        changes: vec![Change::Before(|t| t.budget = 2_500.0), Change::After(|t| t.budget = 200.0)],
    });
    all
}
