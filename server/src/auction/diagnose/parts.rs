//! Steps of all channels summed into parts, exactly.

use super::steps::{Pair, log_mean, steps_of};
use super::{Cause, EFFECT_MIN, Part, Period, SIGMAS, Whole};
use std::collections::BTreeMap;

/// Order value over spend in both periods, if both had either.
pub(super) fn returns(value: Whole, spend: Whole) -> Option<Whole> {
    let all = [value.before, value.after, spend.before, spend.after];
    all.iter()
        .all(|amount| *amount > 0.0)
        .then(|| Whole { before: value.before / spend.before, after: value.after / spend.after })
}

/// Sums of one part. Amounts first, then logarithms with their variances.
#[derive(Default)]
struct Sums {
    value: f64,
    spend: f64,
    ln_value: (f64, f64),
    ln_return: (f64, f64),
}

/// What one unit of a step's logarithm is worth, for a product that went from `a` to `b`.
fn worth(a: f64, b: f64, total: f64) -> f64 {
    if total.abs() > 1e-12 { (b - a) / total } else { log_mean(a, b) }
}

/// All parts of the change; each column sums to the change of its whole.
pub(super) fn split(pairs: &[Pair], (before, after): (&Period, &Period), value: Whole, spend: Whole) -> Vec<Part> {
    let mut sums: BTreeMap<(Cause, Option<String>), Sums> = BTreeMap::new();
    let means = [log_mean(value.before, value.after), log_mean(spend.before, spend.after)];
    let share = |worth: f64, mean: f64, whole: Whole| {
        // One side without any: the logarithm has no end, the change itself is the measure.
        let scale = if mean > 0.0 { mean } else { whole.before.max(whole.after) };
        if scale > 0.0 { worth / scale } else { 0.0 }
    };
    for pair in pairs {
        let steps = steps_of(pair, before, after);
        let total = |in_it: fn(&super::steps::Step) -> bool| -> f64 {
            steps.iter().filter(|step| in_it(step)).map(|step| step.change).sum()
        };
        let (value_total, spend_total) = (total(|s| s.in_value), total(|s| s.in_spend));
        let ends = |of: f64, period: &Period| period.a_day(of);
        let values = [ends(pair.before.value, before), ends(pair.after.value, after)];
        let spends = [ends(pair.before.spend, before), ends(pair.after.spend, after)];
        let value_worth = worth(values[0], values[1], value_total);
        let spend_worth = worth(spends[0], spends[1], spend_total);
        let value_left = if value_total.abs() > 1e-12 { 0.0 } else { values[1] - values[0] };
        let spend_left = if spend_total.abs() > 1e-12 { 0.0 } else { spends[1] - spends[0] };
        for step in &steps {
            let sum = sums.entry((step.cause, step.name.clone())).or_default();
            let v = if step.in_value { value_worth } else { 0.0 };
            let s = if step.in_spend { spend_worth } else { 0.0 };
            sum.value += v * step.change;
            sum.spend += s * step.change;
            let of_value = share(v, means[0], value);
            let of_return = of_value - share(s, means[1], spend);
            for (entry, weight) in [(&mut sum.ln_value, of_value), (&mut sum.ln_return, of_return)] {
                entry.0 += weight * step.change;
                entry.1 += weight * weight * step.variance;
            }
        }
        // Factors that cancel to nothing where the product did not: rounding, or a side without any figure.
        let last = sums.entry((Cause::ConversionRate, None)).or_default();
        last.value += value_left;
        sums.entry((Cause::Price, None)).or_default().spend += spend_left;
    }
    let returns = returns(value, spend);
    let scale = returns.map(|whole| log_mean(whole.before, whole.after));
    sums.into_iter().map(|((cause, name), sum)| part(cause, name, &sum, scale)).collect()
}

fn part(cause: Cause, name: Option<String>, sum: &Sums, scale: Option<f64>) -> Part {
    let sigmas = |(change, variance): (f64, f64)| {
        if variance > 0.0 { (change.abs() / variance.sqrt()).min(99.0) } else { 0.0 }
    };
    let mut strongest = (0.0_f64, 0.0_f64);
    let counts = |(change, sigmas): (f64, f64)| change >= EFFECT_MIN && sigmas >= SIGMAS;
    let measures = [Some(sum.ln_value), scale.map(|_| sum.ln_return)];
    for measure in measures.into_iter().flatten() {
        // Of the measures in which it is more than luck, the one it moved most.
        let now = (measure.0.abs(), sigmas(measure));
        if (counts(now), now.0) > (counts(strongest), strongest.0) {
            strongest = now;
        }
    }
    Part {
        cause,
        group: cause.group(),
        name,
        order_value: sum.value,
        spend: sum.spend,
        return_on_spend: scale.map(|scale| scale * sum.ln_return.0),
        moved: false,
        sigmas: strongest.1,
        evidence: Vec::new(),
        suggestion: String::new(),
        weight: strongest.0,
        ln_return: if scale.is_some() && counts((sum.ln_return.0.abs(), sigmas(sum.ln_return))) {
            sum.ln_return.0
        } else {
            0.0
        },
    }
}

/// Marks the parts that are more than luck.
pub(super) fn judge(parts: &mut [Part]) {
    for part in parts {
        part.moved = part.sigmas >= SIGMAS && part.weight >= EFFECT_MIN;
    }
}
