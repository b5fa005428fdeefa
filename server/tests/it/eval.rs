//! `longbow eval` against a whole server: its figures are those of rankings asked for by hand.

use crate::world::World;
use longbow::eval::{EvalArgs, Report, Source, evaluate};
use serde_json::{Value, json};
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

/// Six users: four to evaluate, one of a single event, one whose last item the world does not have.
fn events() -> Vec<Value> {
    let mut events = Vec::new();
    let mut add = |user: &str, items: &[u32]| {
        for (at, item) in items.iter().enumerate() {
            let id = format!("{user}-{at}");
            events.push(
                json!({"id": id, "user": user, "item": item, "action": "click", "time": 1_700_000_000 + at * 60}),
            );
        }
    };
    let run =
        |from: u32, step: u32, count: u32| -> Vec<u32> { (0..count).map(|n| (from + n * step) % 600 + 1).collect() };
    add("a", &run(3, 7, 40));
    add("b", &run(10, 1, 5));
    add("c", &run(200, 11, 25));
    add("d", &run(10, 2, 12));
    add("single", &[5]);
    add("stranger", &[5, 6, 7_777]);
    events
}

pub(crate) fn args(world: &World, file: &Path) -> EvalArgs {
    let number = |number| NonZeroUsize::new(number).unwrap();
    EvalArgs {
        file: file.to_owned(),
        format: Source::Ndjson,
        answers: None,
        url: format!("http://{}", world.http),
        users: number(100),
        k: vec![number(200), number(50)],
        lengths: vec![number(10), number(1_000)],
        objective: "similarity".to_owned(),
        exclude_history: false,
        warm_items: None,
        times: number(20),
        draws: 20,
        seed: 1,
        connections: 3,
        now: None,
        plot: None,
    }
}

/// Rank of a user's last event in the answer to the events before it, asked for by hand.
fn rank(world: &World, user: &str, newest: usize) -> Option<usize> {
    let mine: Vec<Value> = events().into_iter().filter(|event| event["user"] == user).collect();
    let (last, before) = mine.split_last().unwrap();
    let before = &before[before.len().saturating_sub(newest)..];
    let history: Vec<Value> =
        before.iter().map(|e| json!({"item": e["item"], "action": e["action"], "time": e["time"]})).collect();
    let ask =
        json!({"history": history, "k": 200, "objective": "similarity", "time": last["time"], "deadline_ms": 2_000});
    let answer = world.post("/v1/rank", ask).json();
    let wanted = last["item"].to_string();
    let items = answer["items"].as_array().unwrap();
    items.iter().position(|item| item["id"] == wanted.as_str()).map(|at| at + 1)
}

fn file(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("events.ndjson");
    let lines: Vec<String> = events().iter().map(Value::to_string).collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    path
}

pub(crate) fn run(args: &EvalArgs) -> anyhow::Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(Box::pin(evaluate(args, Arc::new(|_: &str| {}))))
}

#[test]
fn figures_are_those_of_rankings_asked_for_by_hand() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let report = run(&args(&world, &file(dir.path()))).unwrap();
    let next = report.next.as_ref().unwrap();
    assert_eq!((report.users, next.evaluated), (6, 4));
    assert_eq!((next.skipped.too_short, next.skipped.unknown_item), (1, 1));
    assert_eq!(report.items.unknown_named.iter().map(|id| id.as_str()).collect::<Vec<_>>(), ["7777"]);
    let mut hits = 0;
    for at in &next.lengths {
        let ranks: Vec<Option<usize>> = ["a", "b", "c", "d"].iter().map(|user| rank(&world, user, at.length)).collect();
        hits += ranks.iter().flatten().count();
        let share = |k| ranks.iter().filter(|rank| rank.is_some_and(|rank| rank <= k)).count() as f64 / 4.0;
        let recall = |k| at.quality.recall[&k].value;
        assert_eq!((recall(50), recall(200)), (share(50), share(200)), "{ranks:?}");
        let mrr = ranks.iter().map(|rank| rank.map_or(0.0, |rank| 1.0 / rank as f64)).sum::<f64>() / 4.0;
        assert!((at.quality.mrr.value - mrr).abs() < 1e-12, "{ranks:?}: {mrr}, {}", at.quality.mrr.value);
        assert_eq!((at.answers.answered, at.answers.failed, at.answers.degraded), (4, 0, 0));
    }
    assert!(hits > 0, "a third of the items are asked for");
    assert_eq!(next.lengths[0].users_with_all, 3, "b has four events before its last");
    // Of all histories without the last events, item 15 (b's last) occurs in d's alone: among the items that occur once.
    assert!(next.popularity.recall[&200].value > 0.0);
}

#[test]
fn too_much_asked_and_nobody_left_are_told() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let mut args = args(&world, &file(dir.path()));
    args.k = vec![NonZeroUsize::new(50_000).unwrap()];
    assert!(
        run(&args).unwrap_err().to_string().contains("--k is too large for the server: it makes lists of at most 2000")
    );
    args.k = Vec::new();
    std::fs::write(&args.file, "{\"id\":1,\"user\":\"u\",\"item\":5}\n").unwrap();
    assert!(run(&args).unwrap_err().to_string().contains("nobody to evaluate"));
}

#[test]
fn the_command_prints_a_table_and_a_line_of_json() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let (file, url) = (file(dir.path()), format!("http://{}", world.http));
    let longbow = |url: &str| -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longbow"));
        command.args(["eval", "--format", "ndjson", file.to_str().unwrap(), "--url", url, "--k", "10", "--json"]);
        command.output().unwrap()
    };
    let output = longbow(&url);
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(out.contains("recall@10") && out.contains("\npopularity"), "{out}");
    let figures: Value = serde_json::from_str(out.trim_end().lines().last().unwrap()).unwrap();
    let next = &figures["next"];
    assert_eq!((&next["evaluated"], &next["lengths"][0]["answers"]["answered"]), (&json!(4), &json!(4)));
    assert!(next["popularity"]["ndcg"]["10"]["value"].is_number(), "{figures}");
    assert_eq!(figures["impressions"], Value::Null);
    assert!(err.contains("rankings: "), "progress: {err}");

    drop(world);
    let output = longbow(&url);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("longbow: connect to 127.0.0.1:"));
}
