//! Planted faults: a plan buys in a small simulated market for two days, something is broken on the second, and the server's diagnosis
//! has to name it and nothing else.

mod faults;
mod world;

use crate::out;
use clap::{Args, ValueEnum};
use faults::{Fault, faults, first_price_faults};
use longbow::auction::diagnose::{Diagnosis, diagnose};
use serde::Serialize;
use world::Size;

/// Judges the diagnosis "why did my return change?" on planted faults.
#[derive(Args)]
#[command(
    after_help = "Example:\n  longbow-bench diagnose --seed 1 --json\n\nEvery fault is a day of auctions, then a day with one thing broken. A case is right if the named main cause is the\nplanted one; a part that is named as moved although the fault cannot have moved it is a false blame."
)]
pub(crate) struct DiagnoseArgs {
    /// Seed of the market
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Auctions on offer in a day
    #[arg(long, default_value_t = 400_000, value_parser = clap::value_parser!(u32).range(1_000..=20_000_000))]
    auctions: u32,
    /// How the others' bids lie: as the diagnosis supposes, or otherwise
    #[arg(long, value_enum, default_value_t = Prices::Lognormal)]
    prices: Prices,
    /// The winner pays its own bid, and bids are shaded as the server does it; five more faults
    #[arg(long)]
    first_price: bool,
    /// End with one line of JSON
    #[arg(long)]
    json: bool,
}

/// The distribution of the highest bid of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Prices {
    /// The diagnosis fits this one
    Lognormal,
    /// A gamma distribution of shape 3: another tail on either side
    Gamma,
}

/// One case.
#[derive(Serialize)]
struct Case {
    fault: &'static str,
    planted: &'static str,
    named: String,
    right: bool,
    false_blames: Vec<String>,
    /// Largest difference of a sum of parts from its whole, as a share of the whole.
    rounding: f64,
}

#[derive(Serialize)]
struct Figures {
    seed: u64,
    auctions: u32,
    cases: usize,
    right: usize,
    false_blames: usize,
    /// Worst of all cases.
    rounding: f64,
    wrong: Vec<Case>,
}

fn label(cause: longbow::auction::diagnose::Cause, name: Option<&str>) -> String {
    let word = serde_json::to_value(cause).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default();
    match name {
        Some(name) => format!("{word}:{name}"),
        None => word,
    }
}

/// How far the parts are from summing to the change of their whole.
fn rounding(told: &Diagnosis) -> f64 {
    let sums = [
        (told.order_value, told.parts.iter().map(|part| part.order_value).sum::<f64>()),
        (told.spend, told.parts.iter().map(|part| part.spend).sum::<f64>()),
    ];
    let returns = told.return_on_spend.map(|whole| (whole, told.parts.iter().filter_map(|p| p.return_on_spend).sum()));
    sums.into_iter()
        .chain(returns)
        .map(|(whole, sum): (_, f64)| {
            (sum - (whole.after - whole.before)).abs() / whole.before.max(whole.after).max(1e-12)
        })
        .fold(0.0, f64::max)
}

fn case(fault: &Fault, seed: u64, size: Size) -> anyhow::Result<Case> {
    let (before, after) = world::two_days(fault, seed, size)?;
    let told = diagnose(&before, &after)?;
    let named = told.cause.map_or_else(|| "nothing".to_owned(), |cause| label(cause, told.cause_name.as_deref()));
    let moved = told.parts.iter().filter(|part| part.moved);
    let false_blames =
        moved.map(|part| label(part.cause, part.name.as_deref())).filter(|name| !fault.may_move(name)).collect();
    Ok(Case {
        fault: fault.name,
        planted: fault.cause,
        right: named == fault.cause,
        named,
        false_blames,
        rounding: rounding(&told),
    })
}

/// Runs the command.
pub(crate) fn run(args: &DiagnoseArgs) -> anyhow::Result<()> {
    let mut cases = Vec::new();
    let size = Size { auctions: args.auctions, prices: args.prices, first_price: args.first_price };
    let all = if args.first_price { first_price_faults() } else { faults() };
    for (number, fault) in (0u64..).zip(all) {
        cases.push(case(&fault, args.seed.wrapping_mul(1_000).wrapping_add(number), size)?);
    }
    let rows: Vec<Vec<String>> = cases
        .iter()
        .map(|case| {
            let verdict = if case.right { "right" } else { "WRONG" };
            let blames = if case.false_blames.is_empty() { "-".to_owned() } else { case.false_blames.join(" ") };
            vec![case.fault.to_owned(), case.planted.to_owned(), case.named.clone(), verdict.to_owned(), blames]
        })
        .collect();
    out::table(&["fault", "planted", "named", "", "falsely blamed"], &rows);
    let figures = Figures {
        seed: args.seed,
        auctions: args.auctions,
        cases: cases.len(),
        right: cases.iter().filter(|case| case.right).count(),
        false_blames: cases.iter().map(|case| case.false_blames.len()).sum(),
        rounding: cases.iter().map(|case| case.rounding).fold(0.0, f64::max),
        wrong: cases.into_iter().filter(|case| !case.right || !case.false_blames.is_empty()).collect(),
    };
    out::line(format!(
        "{} of {} causes named right, {} false blames, parts sum to the whole within {:.1e}",
        figures.right, figures.cases, figures.false_blames, figures.rounding
    ));
    out::json(args.json, &figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(all: Vec<Fault>, size: Size) -> Vec<Case> {
        (0u64..).zip(all).map(|(number, fault)| case(&fault, 7_000 + number, size).unwrap()).collect()
    }

    fn check(cases: &[Case], least: usize) {
        let right = cases.iter().filter(|case| case.right).count();
        let wrong: Vec<String> =
            cases.iter().filter(|c| !c.right).map(|c| format!("{}: {}", c.fault, c.named)).collect();
        assert!(right >= least, "{right} right; {wrong:?}");
        assert!(cases.iter().all(|case| case.rounding < 1e-9));
        let blames: Vec<&String> = cases.iter().flat_map(|case| &case.false_blames).collect();
        assert!(blames.is_empty(), "{blames:?}");
    }

    #[test]
    fn planted_faults_are_named() {
        let size = Size { auctions: 150_000, prices: Prices::Lognormal, first_price: false };
        let cases = judge(faults(), size);
        assert_eq!(cases.len(), 24);
        check(&cases, 22);
    }

    #[test]
    fn planted_faults_are_named_where_bids_are_shaded() {
        let size = Size { auctions: 150_000, prices: Prices::Lognormal, first_price: true };
        let cases = judge(first_price_faults(), size);
        assert_eq!(cases.len(), 29);
        check(&cases, 27);
    }
}
