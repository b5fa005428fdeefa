//! Days of a public auction simulator, replayed: a policy learns from some and is judged on others.
//!
//! Before a tick the bidder knows its values; it sets one multiplier; it wins where multiplier x value reaches the cost,
//! pays the cost, and stops at the budget; after the tick it sees the tick's costs. Score: value x min(1, (target / cost per
//! action) squared). The costs of a tick reach the policy only after the tick: the replay hands them over.

mod bidders;

use super::{Several, name_of, npz, several};
use crate::out;
use anyhow::{Context, ensure};
use bidders::{Bidder, Constant, DayPolicy, Learned, Tick};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Ticks of a day at most.
const TICKS_MAX: usize = 1_440;

#[derive(Args)]
pub(super) struct DaysArgs {
    /// Days to learn from (.npz)
    #[arg(long, num_args = 1.., required = true)]
    learn: Vec<PathBuf>,
    /// Days to be judged on
    #[arg(long, num_args = 1.., required = true)]
    judge: Vec<PathBuf>,
    /// Policies, with commas between them, or `all`
    #[arg(long, value_parser = several::<DayPolicy>, default_value = "mpc")]
    policy: Several<DayPolicy>,
    /// Judge each learned day by the others too (they are never judged by themselves)
    #[arg(long)]
    cross: bool,
    /// End with one line of JSON
    #[arg(long)]
    json: bool,
}

/// One day: for each plan and tick its auctions.
struct Day {
    name: String,
    plans: Vec<DayPlan>,
}

struct DayPlan {
    budget: f64,
    target: f64,
    /// (value, cost) by tick.
    ticks: Vec<Vec<(f64, f64)>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Played {
    value: f64,
    spent: f64,
    impressions: u64,
}

impl Played {
    fn score(&self, target: f64) -> f64 {
        if self.value <= 0.0 {
            return 0.0;
        }
        let cpa = self.spent / self.value;
        self.value * if cpa > target { (target / cpa).powi(2) } else { 1.0 }
    }
}

#[derive(Serialize)]
struct Figures {
    policy: String,
    learned: usize,
    judged: Vec<DayFigures>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    left_out: Vec<DayFigures>,
    mean_score: f64,
    spend_ratio: f64,
    cpa_ratio: f64,
    share_of_best_constant: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cross_share: Option<f64>,
}

/// What several policies print at their end.
#[derive(Serialize)]
struct Rows {
    rows: Vec<Figures>,
}

#[derive(Clone, Serialize)]
struct DayFigures {
    day: String,
    mean_score: f64,
    /// Mean of spend / budget.
    spend_ratio: f64,
    /// Mean of cost per action / target.
    cpa_ratio: f64,
    best_constant: f64,
    share_of_best_constant: f64,
    scores: Vec<f64>,
}

/// Runs the command.
pub(super) fn run(args: &DaysArgs) -> anyhow::Result<()> {
    for day in &args.judge {
        ensure!(!args.learn.contains(day), "{} is both learned and judged: that would be look-ahead", day.display());
    }
    let read = |paths: &[PathBuf]| paths.iter().map(|path| read_day(path)).collect::<anyhow::Result<Vec<Day>>>();
    let (learn, judge) = (read(&args.learn)?, read(&args.judge)?);
    let mut rows = Vec::new();
    for &policy in &args.policy.0 {
        rows.push(figures(args, policy, &learn, &judge)?);
        out::progress(format!("{} is judged", name_of(&policy)));
    }
    out::table(
        &["policy", "day", "", "score", "best constant", "share", "spent/budget", "cpa/target"],
        &rows.iter().flat_map(lines).collect::<Vec<_>>(),
    );
    match &rows[..] {
        [one] => out::json(args.json, one),
        _ => out::json(args.json, &Rows { rows }),
    }
}

/// One policy's figures.
fn figures(args: &DaysArgs, policy: DayPolicy, learn: &[Day], judge: &[Day]) -> anyhow::Result<Figures> {
    let judged = judge_days(&learn.iter().collect::<Vec<_>>(), &judge.iter().collect::<Vec<_>>(), policy)?;
    let mut left_out = Vec::new();
    if args.cross {
        for (at, day) in learn.iter().enumerate() {
            let others: Vec<&Day> = learn.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, day)| day).collect();
            left_out.extend(judge_days(&others, &[day], policy)?);
        }
    }
    Ok(Figures {
        policy: name_of(&policy),
        learned: learn.len(),
        mean_score: mean(judged.iter().map(|day| day.mean_score)),
        spend_ratio: mean(judged.iter().map(|day| day.spend_ratio)),
        cpa_ratio: mean(judged.iter().map(|day| day.cpa_ratio)),
        share_of_best_constant: mean(judged.iter().map(|day| day.share_of_best_constant)),
        cross_share: args.cross.then(|| mean(left_out.iter().map(|day| day.share_of_best_constant))),
        judged,
        left_out,
    })
}

/// A policy's table rows.
fn lines(figures: &Figures) -> Vec<Vec<String>> {
    let judged = figures.judged.iter().map(|day| row(&figures.policy, day, "judged"));
    judged.chain(figures.left_out.iter().map(|day| row(&figures.policy, day, "left out"))).collect()
}

fn row(policy: &str, day: &DayFigures, kind: &str) -> Vec<String> {
    let mut cells = vec![policy.to_owned(), day.day.clone(), kind.to_owned()];
    let numbers = [day.mean_score, day.best_constant, day.share_of_best_constant, day.spend_ratio, day.cpa_ratio];
    cells.extend(numbers.map(|x| format!("{x:.3}")));
    cells
}

#[expect(clippy::cast_precision_loss, reason = "counts of plans and days")]
fn mean(numbers: impl Iterator<Item = f64> + Clone) -> f64 {
    let count = numbers.clone().count().max(1) as f64;
    numbers.sum::<f64>() / count
}

fn judge_days(learn: &[&Day], judge: &[&Day], policy: DayPolicy) -> anyhow::Result<Vec<DayFigures>> {
    let learned = Learned::new(policy, learn, judge)?;
    let figures = judge.iter().map(|day| {
        let played: Vec<Played> = day.plans.iter().enumerate().map(|(at, plan)| learned.play(plan, at)).collect();
        let scores: Vec<f64> = played.iter().zip(&day.plans).map(|(p, plan)| p.score(plan.target)).collect();
        let mean_score = mean(scores.iter().copied());
        let best_constant = mean(day.plans.iter().map(|plan| best_constant(plan).0));
        let ratio = |p: &Played, plan: &DayPlan| if p.value > 0.0 { p.spent / p.value / plan.target } else { 0.0 };
        DayFigures {
            day: day.name.clone(),
            mean_score,
            spend_ratio: mean(played.iter().zip(&day.plans).map(|(p, plan)| p.spent / plan.budget)),
            cpa_ratio: mean(played.iter().zip(&day.plans).map(|(p, plan)| ratio(p, plan))),
            best_constant,
            share_of_best_constant: mean_score / best_constant.max(1e-12),
            scores,
        }
    });
    Ok(figures.collect())
}

/// Plays a plan's day.
fn play(plan: &DayPlan, bidder: &mut impl Bidder) -> Played {
    play_with(&plan.ticks, plan.budget, bidder)
}

/// Plays a day with so much money. Costs reach the bidder after their tick.
#[expect(clippy::cast_precision_loss, reason = "ticks of a day")]
fn play_with(ticks: &[Vec<(f64, f64)>], budget: f64, bidder: &mut impl Bidder) -> Played {
    let mut played = Played::default();
    let mut costs: Vec<f64> = Vec::new();
    for (number, auctions) in ticks.iter().enumerate() {
        let values: Vec<f64> = auctions.iter().map(|auction| auction.0).collect();
        let of_tick = bidder.tick(&Tick {
            number,
            share: number as f64 / ticks.len() as f64,
            values: &values,
            costs: (number > 0).then_some(&costs),
            played,
            left: budget - played.spent,
        });
        for &(value, cost) in auctions {
            let multiplier = bidder.auction(budget - played.spent, value).unwrap_or(of_tick);
            if multiplier * value >= cost {
                if played.spent + cost > budget {
                    // At the budget the tick is over.
                    break;
                }
                played.spent += cost;
                played.value += value;
                played.impressions += 1;
            }
        }
        costs = auctions.iter().map(|auction| auction.1).collect();
    }
    played
}

/// The best constant multiplier by a grid of 1% steps: its score, and itself.
fn best_constant(plan: &DayPlan) -> (f64, f64) {
    let grid = (-150..=150).map(|i| (0.01 * f64::from(i)).exp() * plan.target);
    let scored = grid.map(|m| (play(plan, &mut Constant(m)).score(plan.target), m));
    scored.fold((0.0, plan.target), |best, new| if new.0 > best.0 { new } else { best })
}

fn read_day(path: &Path) -> anyhow::Result<Day> {
    let arrays = npz::read(path)?;
    let get = |name: &str| arrays.get(name).with_context(|| format!("{} has no array `{name}`", path.display()));
    let (value, cost, tick) = (get("value")?, get("least_winning_cost")?, get("tick")?);
    let (budget, target) = (get("budget")?, get("cpa_target")?);
    let (auctions, plans) = (tick.data.len(), budget.data.len());
    ensure!(
        value.shape == [auctions, plans] && cost.data.len() == auctions && target.data.len() == plans && auctions > 0,
        "{}: the arrays' shapes do not match",
        path.display()
    );
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a tick's number; `as` saturates")]
    let tick_of: Vec<usize> = tick.data.iter().map(|&t| t as usize).collect();
    let ticks = tick_of.iter().max().map_or(0, |last| last + 1);
    ensure!(ticks <= TICKS_MAX, "{}: more than {TICKS_MAX} ticks", path.display());
    let plans = (0..plans)
        .map(|plan| {
            let mut by_tick = vec![Vec::new(); ticks];
            for (auction, &tick) in tick_of.iter().enumerate() {
                by_tick[tick].push((value.data[auction * budget.data.len() + plan], cost.data[auction]));
            }
            DayPlan { budget: budget.data[plan], target: target.data[plan], ticks: by_tick }
        })
        .collect();
    let name = path.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    Ok(Day { name, plans })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(day: u32) -> PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/bidding/auction-days");
        root.join(format!("day-{day}.npz"))
    }

    #[test]
    fn learnt_on_five_real_days_it_reaches_the_bound_on_the_sixth_and_no_budget_is_broken() {
        let Ok(days) = (0..6).map(|day| read_day(&shared(day))).collect::<Result<Vec<_>, _>>() else {
            println!("skipped: ../shared is absent");
            return;
        };
        let (learn, judge): (Vec<&Day>, Vec<&Day>) = (days[..5].iter().collect(), vec![&days[5]]);
        let figures = judge_days(&learn, &judge, DayPolicy::Mpc).unwrap().remove(0);
        assert!(figures.share_of_best_constant >= 0.93, "{}", figures.share_of_best_constant);
        assert!(figures.spend_ratio <= 1.0);
        let fixed = judge_days(&learn, &judge, DayPolicy::Fixed).unwrap().remove(0);
        assert!((fixed.mean_score - 7.18).abs() < 0.01, "published for the same rules: 7.18");
    }

    #[test]
    fn a_policy_sees_no_cost_before_its_tick_is_over() {
        let ticks = vec![vec![(1.0, 5.0)], vec![(1.0, 6.0)], vec![(1.0, 7.0)]];
        let plan = DayPlan { budget: 100.0, target: 10.0, ticks };
        #[derive(Default)]
        struct Told(Vec<Option<Vec<f64>>>);
        impl Bidder for Told {
            fn tick(&mut self, tick: &Tick<'_>) -> f64 {
                self.0.push(tick.costs.map(<[f64]>::to_vec));
                1.0
            }
        }
        let mut told = Told::default();
        play(&plan, &mut told);
        assert_eq!(told.0, [None, Some(vec![5.0]), Some(vec![6.0])]);
    }
}
