//! The server's own policies in a replay: each tick shows them what the control loop would.

use longbow::auction::pace::{AnyPolicy, ChannelSeen, NO_FACTORS, Outlook, PlanObservation, Policy, Profile};
use longbow::money::Micros;
use longbow::plans::PolicyKind;

const DAY_S: f64 = 86_400.0;
const UNIT: f64 = 1e6;

/// What a plan has bought since its day began, in currency units.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bought {
    pub(super) spent: f64,
    /// Predicted value at the goal.
    pub(super) expected: f64,
    pub(super) impressions: u64,
    /// Results that the predicted value stands for.
    pub(super) results: f64,
}

/// A policy on its way through the days of one market: the shape of the day and the level of prices are kept from one to the next.
#[derive(Clone, Debug)]
pub(super) struct Served {
    policy: AnyPolicy,
    profile: Profile,
    threshold: f64,
    budget: f64,
    last: f64,
}

#[expect(clippy::cast_possible_truncation, reason = "amounts far below 2^63")]
fn micros(units: f64) -> Micros {
    Micros((units * UNIT) as i64)
}

impl Served {
    pub(super) fn new(kind: PolicyKind) -> Self {
        Self { policy: AnyPolicy::new(kind), profile: Profile::default(), threshold: 0.0, budget: 0.0, last: 0.0 }
    }

    /// Begins a plan of one day.
    pub(super) fn begin(&mut self, budget: f64) {
        self.policy = AnyPolicy::new(self.policy.kind());
        (self.budget, self.last) = (budget, 0.0);
    }

    /// The multiplier from a part of the day on.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts and seconds of a day")]
    pub(super) fn multiplier(&mut self, share: f64, bought: Bought) -> f64 {
        let now = share * DAY_S;
        let (spent, expected) = (micros(bought.spent), micros(bought.expected));
        let mut channels = [ChannelSeen::default(); NO_FACTORS.len()];
        channels[0] = ChannelSeen { impressions: bought.impressions, spent, expected, earned: expected };
        let seen = PlanObservation {
            budget: micros(self.budget),
            spent,
            earned: expected,
            results: bought.results as u64,
            impressions: bought.impressions,
            expected,
            starts_at: 0,
            ends_at: DAY_S as i64,
            allowance: micros(self.budget),
            period_ends_at: DAY_S as i64,
            channels,
        };
        let outlook = Outlook {
            profile: &self.profile,
            threshold: self.threshold,
            record: 1.0,
            channels: NO_FACTORS,
            policy: None,
        };
        let control = self.policy.update(&seen, now, &outlook);
        if let AnyPolicy::Mpc(mpc) = &self.policy
            && let Some((surprise, threshold, certainty)) = mpc.surprise()
        {
            self.profile.report(self.last, surprise, certainty);
            self.threshold = threshold;
        }
        self.last = now;
        control.multiplier
    }
}
