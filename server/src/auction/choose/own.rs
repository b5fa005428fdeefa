//! How a creative's own record takes over from the prior, and how far a choice bets on what is not known yet.

use serde::{Deserialize, Serialize};

/// Share of creatives that stand out: what they have of their own is [`WIDE`] times as large. Without it a record far above
/// the others would be taken for luck for too long.
const OUTSTANDING: f64 = 0.2;
/// How much more those differ.
const WIDE: f64 = 2.5;
/// Impressions over which finding a better creative pays, where nothing else is said: how patient exploration is.
const HORIZON: f64 = 200_000.0;
/// Part of the deviation that a choice draws at random, on top of what patience adds.
const JITTER: f64 = 0.2;
/// Creatives that the spread before any data counts as.
const SPREAD_STRENGTH: f64 = 20.0;

/// What was seen of one creative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Impressions (a fraction after decay; one to a tired user counts for less).
    pub impressions: f64,
    /// Clicks.
    pub clicks: f64,
}

/// The second level of the model. A creative's click rate is what its features say plus something of its own, which is
/// Gaussian with variance `spread` for most and larger for a few; each impression shows the rate with variance `noise`.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Variance of one impression's outcome.
    pub noise: f64,
    /// Variance of what most creatives have of their own.
    pub spread: f64,
    /// Impressions over which finding a better creative pays.
    pub horizon: f64,
}

/// What a record makes of a creative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Own {
    /// Share of what the features say in what is expected: 1 without a record, towards 0 with a long one. It is also what
    /// an impression tells about the features: the rest of it the record knew already.
    pub share: f64,
    /// What the record adds to that share.
    pub record: f64,
    /// The expected rate.
    pub mean: f64,
    /// Standard deviation of the rate, given what the features say.
    pub deviation: f64,
    /// The same with what is not known of the features.
    pub total: f64,
    /// How it would be if it stood out.
    outstanding: Outstanding,
}

/// What is expected of a creative if it is one of the few that stand out.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Outstanding {
    /// Probability that it is.
    weight: f64,
    /// Expected rate then, less [`Own::mean`].
    shift: f64,
    /// Standard deviation then.
    deviation: f64,
}

/// One of the two kinds of creatives, for one record.
struct Kind {
    /// Probability of the kind.
    weight: f64,
    scale: f64,
    share: f64,
    record: f64,
    /// Mean and variance of what the creative has of its own.
    own: f64,
    variance: f64,
}

impl Rule {
    /// For creatives with click rates around `rate`, most of which differ by `relative` of it where their features are the
    /// same.
    #[must_use]
    pub fn new(rate: f64, relative: f64) -> Self {
        let rate = rate.clamp(1e-5, 1.0 - 1e-5);
        Self { noise: rate * (1.0 - rate), spread: (relative * rate).powi(2), horizon: HORIZON }
    }

    /// The same with this many impressions to come.
    #[must_use]
    pub fn over(self, horizon: f64) -> Self {
        Self { horizon, ..self }
    }

    fn kinds(&self, seen: Seen, expected: f64, uncertainty: f64) -> [Kind; 2] {
        let mut kinds = [(1.0 - OUTSTANDING, 1.0), (OUTSTANDING, WIDE)].map(|(weight, scale)| {
            let spread = self.spread * scale * scale;
            let total = seen.impressions * spread + self.noise;
            let (share, record) = (self.noise / total, seen.clicks * spread / total);
            let own = share * expected + record - expected;
            Kind { weight, scale, share, record, own, variance: spread * share }
        });
        if seen.impressions > 0.0 {
            let missed = seen.clicks / seen.impressions - expected;
            for kind in &mut kinds {
                let spread = self.spread * kind.scale * kind.scale;
                let variance = uncertainty + spread + self.noise / seen.impressions;
                kind.weight *= (-0.5 * missed * missed / variance).exp() / variance.sqrt();
            }
            let total = kinds[0].weight + kinds[1].weight;
            // Far out both densities vanish: then it stands out.
            kinds[1].weight = if total > 0.0 { kinds[1].weight / total } else { 1.0 };
            kinds[0].weight = 1.0 - kinds[1].weight;
        }
        kinds
    }

    /// What `seen` makes of a creative whose features say `expected`, with a variance of `uncertainty`.
    #[must_use]
    pub fn own(&self, seen: Seen, expected: f64, uncertainty: f64) -> Own {
        let kinds = self.kinds(seen, expected, uncertainty);
        let sum = |of: fn(&Kind) -> f64| kinds.iter().map(|kind| kind.weight * of(kind)).sum::<f64>();
        let mean = sum(|kind| kind.own);
        let variance = sum(|kind| kind.variance + kind.own * kind.own) - mean * mean;
        let (share, variance) = (sum(|kind| kind.share), variance.max(0.0));
        let with_features = |share: f64, variance: f64| (share * share * uncertainty.max(0.0) + variance).sqrt();
        let wide = &kinds[1];
        let outstanding = Outstanding {
            weight: wide.weight,
            shift: wide.own - mean,
            deviation: with_features(wide.share, wide.variance),
        };
        let (record, total) = (sum(|kind| kind.record), with_features(share, variance));
        Own { share, record, mean: share * expected + record, deviation: variance.sqrt(), total, outstanding }
    }

    /// Variance of the mean outcome of `impressions` more, given what the features say.
    #[must_use]
    pub fn variance_of_next(&self, own: &Own, impressions: f64) -> f64 {
        own.deviation * own.deviation + self.noise / impressions
    }

    /// What a creative is worth to a choice, where `z` is standard normal: what is expected, what patience adds for what is
    /// not known, and chance.
    #[must_use]
    pub fn draw(&self, own: &Own, z: f64) -> f64 {
        own.mean + self.patience(own) + JITTER * own.deviation * z
    }

    /// What exploring adds. Of a mixture, a Gittins index is not that of its whole deviation: what pays is that it may be one
    /// that stands out, and what that brings counts by its probability, which is as if the horizon were that much shorter.
    fn patience(&self, own: &Own) -> f64 {
        let far = own.outstanding;
        let of = |deviation: f64, horizon: f64| deviation * index(deviation * deviation / self.noise * horizon);
        of(own.total, self.horizon).max(far.shift + of(far.deviation, self.horizon * far.weight))
    }

    /// The spread by empirical Bayes: one step of expectation maximisation over records and what their features say, held
    /// by a start of `start` with the weight of some creatives.
    #[must_use]
    pub fn learned_spread(&self, start: f64, records: impl IntoIterator<Item = (Seen, f64)>) -> f64 {
        let (mut sum, mut count) = (SPREAD_STRENGTH * start, SPREAD_STRENGTH);
        for (seen, expected) in records {
            let kinds = self.kinds(seen, expected, 0.0);
            let square = |kind: &Kind| kind.weight * (kind.own * kind.own + kind.variance) / (kind.scale * kind.scale);
            sum += kinds.iter().map(square).sum::<f64>();
            count += 1.0;
        }
        sum / count
    }
}

/// Deviations that a Gittins index adds to the mean, where `s` is the variance of the mean over that of one observation
/// times the horizon: the closed form of Brezzi and Lai (2002).
fn index(s: f64) -> f64 {
    match s {
        s if s <= 0.2 => (s.max(0.0) / 2.0).sqrt(),
        s if s <= 1.0 => 0.49 - 0.11 / s.sqrt(),
        s if s <= 5.0 => 0.63 - 0.26 / s.sqrt(),
        s if s <= 15.0 => 0.77 - 0.58 / s.sqrt(),
        s => (2.0 * s.ln() - s.ln().ln() - (16.0 * std::f64::consts::PI).ln()).max(0.0).sqrt(),
    }
}
