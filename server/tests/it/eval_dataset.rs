//! `longbow eval` by a data set: figures against those worked out the long way from answers asked for by hand.

use crate::eval::{args, run};
use crate::world::World;
use longbow::dataset::{self, About, Dataset, Events, FORMAT, Impression, Impressions, Items, Next};
use longbow::eval::report::Target;
use longbow::eval::{EvalArgs, Report, Source};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::path::Path;

const USERS: usize = 12;
/// Known to the file alone.
const STRANGE: i64 = 7_777;
/// Items above it are set apart as cold.
const WARM: i64 = 450;

/// Users of no to 77 events, five query times each with three to eight impressions.
fn world_of_labels() -> Dataset {
    let mut random = StdRng::seed_from_u64(11);
    let mut set = Dataset {
        about: About { format: FORMAT, made_by: "a test".to_owned(), ..About::default() },
        ..Dataset::default()
    };
    let ids: Vec<i64> = (1..=600).chain([STRANGE]).collect();
    set.items = Items { dimension: 0, vectors: Vec::new(), prices: vec![1_000_000; ids.len()], ids };
    let (mut events, mut next, mut shown) = (Events::default(), Next::default(), Impressions::default());
    for user in 0..USERS {
        set.users.push(user as i64 + 1);
        let mut time = 1_700_000_000;
        for _ in 0..user * 7 {
            time += random.random_range(0..3) * 600;
            events.push(random.random_range(1..=600), random.random_range(1..8), time);
        }
        events.end_user();
        // Every third user's next item is cold; the last one's is strange.
        let item = if user % 3 == 0 { random.random_range(WARM + 1..=600) } else { random.random_range(1..=WARM) };
        next.items.push(if user == USERS - 1 { STRANGE } else { item });
        next.times.push(time + 900);
        for at in 0..5 {
            for _ in 0..random.random_range(3..=8) {
                let (click, after) = (random.random::<f32>(), random.random::<f32>());
                let clicked = random.random::<f32>() < click;
                let converted = clicked && random.random::<f32>() < after;
                let strange = random.random::<f32>() < 0.05;
                shown.push(Impression {
                    item: if strange { STRANGE } else { random.random_range(1..=600) },
                    time: 1_700_000_000 + at * 9_000,
                    click: clicked,
                    conversion: converted,
                    value: if converted { 0.5 + random.random::<f32>() } else { 0.0 },
                    truth: Some((click, after)),
                });
            }
        }
        shown.end_user();
    }
    (set.events, set.next, set.impressions) = (events, Some(next), Some(shown));
    set
}

fn dataset_args(world: &World, path: &Path, set: &Dataset) -> EvalArgs {
    dataset::write(path, set).unwrap();
    let number = |number| NonZeroUsize::new(number).unwrap();
    EvalArgs { format: Source::Dataset, k: vec![number(10), number(60)], ..args(world, path) }
}

fn history(set: &Dataset, user: usize, before: i64, newest: usize) -> Vec<Value> {
    let range = set.events.of(user);
    let places: Vec<usize> = range.filter(|&at| set.events.times[at] < before).collect();
    let event = |&at: &usize| json!({"item": set.events.items[at], "action": set.events.actions[at], "time": set.events.times[at]});
    places[places.len().saturating_sub(newest)..].iter().map(event).collect()
}

fn ask(world: &World, more: Value) -> Value {
    let mut ask = json!({"objective": "similarity", "k": 60, "deadline_ms": 2_000});
    ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let answer = world.post("/v1/rank", &ask);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn place(answer: &Value, item: i64) -> Option<usize> {
    let items = answer["items"].as_array().unwrap();
    items.iter().position(|one| one["id"] == item.to_string().as_str()).map(|at| at + 1)
}

/// An impression with its predicted click, conversion and value.
type Answered = (Impression, [f64; 3]);

/// The predictions for every impression of a known item, asked for one time at a time.
fn predictions(world: &World, set: &Dataset, newest: usize) -> Vec<Answered> {
    let shown = set.impressions.as_ref().unwrap();
    let mut all = Vec::new();
    for user in 0..USERS {
        let times: HashSet<i64> = shown.of(user).map(|at| shown.times[at]).collect();
        for time in times {
            let of_time: Vec<Impression> =
                shown.of(user).map(|at| shown.at(at)).filter(|one| one.time == time).collect();
            let items: Vec<i64> = of_time.iter().map(|one| one.item).collect();
            let history = history(set, user, time, newest);
            let answer =
                ask(world, json!({"history": history, "candidates": items, "time": time, "objective": "click"}));
            for one in of_time {
                let items = answer["items"].as_array().unwrap();
                let Some(found) = items.iter().find(|item| item["id"] == one.item.to_string().as_str()) else {
                    assert_eq!(one.item, STRANGE);
                    continue;
                };
                all.push((one, ["click", "conversion", "value"].map(|key| found[key].as_f64().unwrap())));
            }
        }
    }
    all
}

/// Over all pairs.
fn naive_auc(rows: &[(f64, bool)]) -> f64 {
    let (mut won, mut pairs) = (0.0, 0.0);
    for up in rows.iter().filter(|row| row.1) {
        for down in rows.iter().filter(|row| !row.1) {
            pairs += 1.0;
            won += if up.0 > down.0 {
                1.0
            } else if up.0 == down.0 {
                0.5
            } else {
                0.0
            };
        }
    }
    won / pairs
}

fn mean(values: impl Iterator<Item = f64> + Clone) -> f64 {
    values.clone().sum::<f64>() / values.count() as f64
}

fn naive_entropy(rows: &[(f64, bool)]) -> f64 {
    let loss = |p: f64, label: bool| -(if label { p } else { 1.0 - p }).ln();
    let rate = mean(rows.iter().map(|row| f64::from(u8::from(row.1))));
    mean(rows.iter().map(|row| loss(row.0, row.1))) / (rate * loss(rate, true) + (1.0 - rate) * loss(rate, false))
}

/// Row r of n, in the order of predictions, lies in bin 20 r / n.
fn naive_calibration(rows: &[(f64, bool)]) -> f64 {
    let mut sorted = rows.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut sums = [0.0; 20];
    for (at, (p, label)) in sorted.iter().enumerate() {
        sums[at * 20 / sorted.len()] += p - f64::from(u8::from(*label));
    }
    sums.iter().map(|sum: &f64| sum.abs()).sum::<f64>() / sorted.len() as f64
}

fn near(a: f64, b: f64, what: &str) {
    assert!((a - b).abs() < 1e-9, "{what}: {a} is not {b}");
}

fn compare(target: &Target, rows: &[(f64, bool)]) {
    assert_eq!((target.rows, target.positives), (rows.len(), rows.iter().filter(|row| row.1).count()));
    near(target.auc.value, naive_auc(rows), "AUC");
    near(target.normalised_entropy.value, naive_entropy(rows), "entropy");
    near(target.calibration_error.value, naive_calibration(rows), "calibration");
    let labels = mean(rows.iter().map(|row| f64::from(u8::from(row.1))));
    near(target.predicted_over_observed.value, mean(rows.iter().map(|row| row.0)) / labels, "ratio");
    assert!(target.auc.error > 0.0 && target.auc.error < 0.3, "{:?}", target.auc);
}

fn check_impressions(world: &World, set: &Dataset, report: &Report) {
    let shown = report.impressions.as_ref().unwrap();
    let known = |all: &Impressions| all.items.iter().filter(|&&item| item != STRANGE).count();
    let all = set.impressions.as_ref().unwrap();
    assert_eq!((shown.users, shown.impressions), (USERS, known(all)));
    assert_eq!(shown.unknown_item, all.items.len() - known(all));
    for at in &shown.lengths {
        let rows = predictions(world, set, at.length);
        let of = |of: &dyn Fn(&Answered) -> (f64, bool)| rows.iter().map(of).collect::<Vec<_>>();
        compare(&at.click, &of(&|(one, p)| (p[0], one.click)));
        compare(&at.conversion, &of(&|(one, p)| (p[0] * p[1], one.conversion)));
        let clicked: Vec<(f64, bool)> =
            rows.iter().filter(|row| row.0.click).map(|(one, p)| (p[1], one.conversion)).collect();
        compare(&at.conversion_after_click, &clicked);
        let orders: Vec<(f64, f64)> =
            rows.iter().filter(|row| row.0.conversion).map(|(one, p)| (p[2], one.value.into())).collect();
        let observed = mean(orders.iter().map(|order| order.1));
        near(at.value_error.value, mean(orders.iter().map(|order| (order.0 - order.1).abs())) / observed, "value");
        near(at.value_ratio.value, mean(orders.iter().map(|order| order.0)) / observed, "value ratio");
        assert_eq!((at.answers.failed, at.answers.degraded), (0, 0));
    }
    // The truth itself, on the same impressions.
    let truth: Vec<(f64, bool)> = (0..all.items.len())
        .map(|at| all.at(at))
        .filter(|one| one.item != STRANGE)
        .map(|one| (f64::from(one.truth.unwrap().0) * f64::from(one.truth.unwrap().1), one.conversion))
        .collect();
    let best = &shown.best.as_ref().unwrap().conversion;
    near(best.auc.value, naive_auc(&truth), "best AUC");
    near(best.normalised_entropy.value, naive_entropy(&truth), "best entropy");
    assert!(best.auc.value > 0.7, "{}", best.auc.value);
}

fn check_next(world: &World, set: &Dataset, report: &Report, exclude: bool) {
    let next = report.next.as_ref().unwrap();
    // The first has no history, the last a strange item.
    assert_eq!((next.evaluated, next.skipped.too_short, next.skipped.unknown_item), (USERS - 2, 1, 1));
    let nexts = set.next.as_ref().unwrap();
    for at in &next.lengths {
        let recall = |cold: Option<bool>, more: &dyn Fn(bool) -> Value| {
            let of = (1..USERS - 1).filter(|&user| cold.is_none_or(|cold| (nexts.items[user] > WARM) == cold));
            let found = of.clone().map(|user| {
                let (item, time) = (nexts.items[user], nexts.times[user]);
                let mut body = json!({"history": history(set, user, i64::MAX, at.length), "time": time});
                body.as_object_mut().unwrap().extend(more(item > WARM).as_object().unwrap().clone());
                let answer = ask(world, body);
                // What the history holds is left out by hand: of the whole history, not of the part sent.
                let own: HashSet<i64> = set.events.items[set.events.of(user)].iter().copied().collect();
                let items: Vec<i64> = answer["items"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|i| i["id"].as_str().unwrap().parse().unwrap())
                    .collect();
                let list: Vec<i64> =
                    items.into_iter().filter(|item| !exclude || !own.contains(item)).take(60).collect();
                f64::from(u8::from(list.contains(&item)))
            });
            mean(found.collect::<Vec<_>>().into_iter())
        };
        let whole = |_| json!({"k": 600});
        near(at.quality.recall[&60].value, recall(None, &whole), "recall@60");
        let cold = at.cold.as_ref().unwrap();
        assert_eq!((cold.cold.users, cold.warm.users, cold.cold.items, cold.warm.items), (3, 7, 150, 450));
        near(cold.cold.recall.value, recall(Some(true), &whole), "cold");
        near(cold.warm.recall.value, recall(Some(false), &whole), "warm");
        let alone = |cold: bool| {
            let like: Vec<i64> = if cold { (WARM + 1..=600).collect() } else { (1..=WARM).collect() };
            json!({"k": 600, "candidates": like})
        };
        near(cold.cold.recall_alone.as_ref().unwrap().value, recall(Some(true), &alone), "cold alone");
        near(cold.warm.recall_alone.as_ref().unwrap().value, recall(Some(false), &alone), "warm alone");
    }
}

#[test]
fn figures_are_those_of_answers_asked_for_by_hand() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let set = world_of_labels();
    let mut args = dataset_args(&world, &dir.path().join("set.safetensors"), &set);
    args.warm_items = Some(WARM);
    let report = run(&args).unwrap();
    check_impressions(&world, &set, &report);
    check_next(&world, &set, &report, false);
    args.exclude_history = true;
    let again = run(&args).unwrap();
    check_next(&world, &set, &again, true);
    let auc = |report: &Report| report.impressions.as_ref().unwrap().lengths[1].click.auc.clone();
    assert_eq!((auc(&report).value, auc(&report).error), (auc(&again).value, auc(&again).error), "the seed decides");
    // Newest times only.
    args.times = NonZeroUsize::new(2).unwrap();
    let fewer = run(&args).unwrap();
    let asked = |report: &Report| report.impressions.as_ref().unwrap().lengths[1].answers.asked;
    assert_eq!((asked(&report), asked(&fewer)), (5 * USERS, 2 * USERS));
}

#[test]
fn a_plot_and_tables_come_out_and_wrong_arguments_are_told() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let (file, plot) = (dir.path().join("set.safetensors"), dir.path().join("quality.svg"));
    let mut set = world_of_labels();
    set.about.other.insert("warm_items".to_owned(), WARM.into());
    let args = dataset_args(&world, &file, &set);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_longbow"));
    command.args(["eval", "--format", "dataset", file.to_str().unwrap(), "--url", &args.url, "--lengths", "5,50"]);
    let output = command.args(["--plot", plot.to_str().unwrap(), "--json"]).output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{out}{err}");
    for told in ["AUC", "  best  ", "calibration error", "cold alone", "popularity", "plot: "] {
        assert!(out.contains(told), "{told}: {out}");
    }
    let figures: Value = serde_json::from_str(out.trim_end().lines().last().unwrap()).unwrap();
    let click = &figures["impressions"]["lengths"][1]["click"];
    assert!(click["auc"]["value"].is_number() && click["auc"]["error"].is_number(), "{click}");
    assert_eq!(figures["next"]["warm_items"], WARM);
    let svg = std::fs::read_to_string(&plot).unwrap();
    for title in ["AUC (click)", "AUC (conversion)", "recall@100", "NDCG@10", "calibration (click), 50 events"] {
        assert!(svg.contains(title), "{title}");
    }
    let told = |args: &EvalArgs| format!("{:#}", run(args).unwrap_err());
    let wrong = EvalArgs { answers: Some(file.clone()), ..args.clone() };
    assert!(told(&wrong).contains("--format ml1m"));
    std::fs::write(&file, b"short").unwrap();
    assert!(told(&args).contains("longbow dataset"), "{}", told(&args));
}

#[test]
fn sequences_with_answers_are_judged_by_the_whole_line() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("input.txt"), dir.path().join("output.txt"));
    std::fs::write(&input, "5 6 7 8\n100 90 80\n").unwrap();
    std::fs::write(&output, "300\n80\n").unwrap();
    let now = 1_700_000_000;
    let args = EvalArgs { format: Source::Ml1m, answers: Some(output), now: Some(now), ..args(&world, &input) };
    for objective in ["similarity", "value"] {
        let args = EvalArgs { objective: objective.to_owned(), ..args.clone() };
        let next = run(&args).unwrap().next.unwrap();
        assert_eq!((next.evaluated, next.seen_before), (2, 1));
        let places = [(vec![5, 6, 7, 8], 300), (vec![100, 90, 80], 80)].map(|(items, item)| {
            let first = now - 60 * (items.len() as i64 - 1);
            let event =
                |(at, item): (usize, &i64)| json!({"item": item, "action": "view", "time": first + 60 * at as i64});
            let history: Vec<Value> = items.iter().enumerate().map(event).collect();
            let asked = json!({"history": history, "time": now + 60, "k": 200, "objective": objective});
            place(&ask(&world, asked), item)
        });
        let mrr = places.iter().map(|place| place.map_or(0.0, |place| 1.0 / place as f64)).sum::<f64>() / 2.0;
        near(next.lengths[0].quality.mrr.value, mrr, "MRR");
        assert!(mrr > 0.0 || objective == "value");
    }
}
