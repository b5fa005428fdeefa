//! What a market is made of. None of it was fitted to a policy's figures; where no public log tells it, it is a judgement,
//! and the other kinds of market show how much hangs on it.

/// The markets there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum MarketKind {
    /// The one that the figures are stated for
    Base,
    /// Nine others, prices in two peaks a day that differ sixfold, poor predictions, results after hours
    Rough,
    /// One other, prices that hardly move over the day, good predictions
    Calm,
    /// As base, with four times the auctions, ten times the results of each and a tenth of the order value, so that luck is small
    Large,
}

/// A log-normal draw: median and spread of the logarithm.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread(pub(super) f64, pub(super) f64);

#[derive(Clone, Copy, Debug)]
pub(super) struct Constants {
    /// Bidders who compete for an impression beside the plan. Judgement: the highest of three log-normal bids has a spread of 0.4.
    pub(super) others: u32,
    /// Logarithmic mean and spread of one other's bid over the value that all see. Judgement: with what the plan sees alone, thresholds spread by
    /// 0.8 about their mean; in the public recorded days `ln(cost / value)` of a tick spreads by more (docs/pricing.md).
    pub(super) other: (f64, f64),
    /// Share of an impression's value (as an exponent) that the others know too. Judgement: half.
    pub(super) common: f64,
    /// Noise of predictions, the spread of their logarithm. Judgement: click models of normalised entropy .75 err by about as much.
    pub(super) noise: f64,
    /// Peaks of traffic and prices in a day. Judgement: one, at 20:24, as in consumer traffic.
    pub(super) peaks: f64,
    /// Traffic at the peak and in the trough: 1 + this and 1 - this. Judgement.
    pub(super) traffic: f64,
    /// Price at the peak over that in the trough. Judgement: the issue asks for prices that move over the day; threefold is more than
    /// the hours of the public campaign 2997 differ.
    pub(super) dearness: f64,
    /// Click rate. Judgement: feeds and search lie at 1 to 5%, display at .1%.
    pub(super) click: Spread,
    /// Conversions per click. Judgement, for shops: 2 to 10%.
    pub(super) conversion: Spread,
    /// Order value, currency units. Judgement.
    pub(super) order: Spread,
    /// Mean time from impression to conversion, seconds. Judgement: same-session purchases.
    pub(super) delay_s: f64,
    /// What a shock does to the others' bids: x1.3, from the issue.
    pub(super) shock: f64,
    /// Spread of a day's drift in the logarithm of prices by its end. Judgement: half as much again or a third less at one and a half
    /// standard deviations.
    pub(super) drift: f64,
    /// Auctions of a plan against what was asked for.
    pub(super) auctions: f64,
}

const BASE: Constants = Constants {
    others: 3,
    other: (-0.4, 0.6),
    common: 0.5,
    noise: 0.3,
    peaks: 1.0,
    traffic: 0.6,
    dearness: 3.0,
    click: Spread(0.02, 0.7),
    conversion: Spread(0.05, 0.5),
    order: Spread(40.0, 0.4),
    delay_s: 1_800.0,
    shock: 1.3,
    drift: 0.5,
    auctions: 1.0,
};

impl Constants {
    pub(super) fn of(kind: MarketKind) -> Self {
        match kind {
            MarketKind::Base => BASE,
            MarketKind::Rough => Self {
                others: 9,
                other: (-0.9, 0.8),
                common: 0.3,
                noise: 0.6,
                peaks: 2.0,
                traffic: 0.8,
                dearness: 6.0,
                click: Spread(0.02, 1.0),
                delay_s: 7_200.0,
                drift: 0.8,
                ..BASE
            },
            MarketKind::Calm => Self {
                others: 1,
                other: (0.0, 0.5),
                common: 0.8,
                noise: 0.15,
                traffic: 0.2,
                dearness: 1.3,
                conversion: Spread(0.05, 0.3),
                delay_s: 300.0,
                ..BASE
            },
            // An auction is worth as much, and there are forty times as many results (an app's installs, a shop's baskets).
            MarketKind::Large => Self {
                auctions: 4.0,
                click: Spread(2.5 * BASE.click.0, BASE.click.1),
                conversion: Spread(4.0 * BASE.conversion.0, BASE.conversion.1),
                order: Spread(BASE.order.0 / 10.0, BASE.order.1),
                ..BASE
            },
        }
    }

    /// Traffic and price level at a part of the day.
    pub(super) fn at(&self, share: f64) -> (f64, f64) {
        let wave = ((share - 0.85) * self.peaks * std::f64::consts::TAU).cos(); // one peak: 1 at 20:24, -1 at 8:24
        (1.0 + self.traffic * wave, self.dearness.sqrt().powf(wave))
    }

    /// What one auction's results are worth against the base market's, so that `large` differs in luck alone.
    pub(super) fn rate(&self) -> f64 {
        self.click.0 * self.conversion.0 / (BASE.click.0 * BASE.conversion.0)
    }
}
