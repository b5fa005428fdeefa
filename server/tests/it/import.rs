//! Imports: real files where they are present, and the way into a whole server.

use crate::shared::shared;
use crate::world::World;
use longbow::import::{self, Event, Figures, Format};
use longbow::store::CatalogStore;
use std::collections::BTreeMap;
use std::path::Path;

const NOW: i64 = 1_700_000_000;

fn by_user(format: Format, path: &Path) -> BTreeMap<String, Vec<Event>> {
    let mut users: BTreeMap<String, Vec<Event>> = BTreeMap::new();
    for event in import::read(format, path, NOW).unwrap() {
        let event = event.unwrap();
        users.entry(event.user.to_string()).or_default().push(event);
    }
    users
}

#[test]
fn real_files_are_read_whole() {
    if let Some(path) = shared("data/histories/ml-100k.inter") {
        let users = by_user(Format::Movielens, &path);
        assert_eq!((users.len(), users.values().map(Vec::len).sum::<usize>()), (943, 100_000));
        assert!(users.values().flatten().all(|e| (874_724_710..=893_286_638).contains(&e.time.unwrap())));
    }
    if let Some(path) = shared("data/histories/ml1m/train/input.txt") {
        let users = by_user(Format::Ml1m, &path);
        assert_eq!((users.len(), users.values().map(Vec::len).max()), (6_040, Some(2_275)));
        assert!(users.values().all(|events| events.last().unwrap().time == Some(NOW)));
    }
    for name in ["train", "test"] {
        if let Some(path) = shared(&format!("data/histories/taobao-display-ads/{name}_user_features.parquet")) {
            let users = by_user(Format::Taobao, &path);
            assert_eq!(users.len(), 10);
            assert!(users.values().all(|events| (351..=1_000).contains(&events.len())), "{name}");
            assert!(users.values().flatten().any(|event| event.item.as_str().starts_with('-')));
        }
    }
}

fn fixture(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("sequences.txt");
    let lines: Vec<String> =
        (1..=3).map(|user| (1..=800).map(|n| (n % 40 + user).to_string()).collect::<Vec<_>>().join(" ")).collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    path
}

#[test]
fn an_import_is_taken_once_and_can_be_ranked_by() {
    let dir = tempfile::tempdir().unwrap();
    let path = fixture(dir.path());
    let world = World::new();
    let url = format!("http://{}", world.http);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let run = || {
        let mut told = Vec::new();
        let events = import::read(Format::Ml1m, &path, NOW).unwrap();
        let figures = runtime.block_on(import::post(events, &url, |f| told.push(f.clone()))).unwrap();
        (figures, told.len())
    };
    let taken = |accepted, duplicate| Figures { accepted, duplicate, ..Figures::default() };
    assert_eq!(run(), (taken(2_400, 0), 3));
    assert_eq!(run(), (taken(0, 2_400), 3));
    let ranked = world.post("/v1/rank", serde_json::json!({"user": "ml1m-2", "k": 5}));
    assert_eq!(ranked.status, 200, "{ranked:?}");
    assert_eq!(ranked.json()["history_events"], 256, "what the model of this world reads at most");
    assert_eq!(world.admin("GET", "/v1/users/ml1m-2", "").json()["events"], 800);
    let wrong = runtime.block_on(import::post(import::read(Format::Ml1m, &path, NOW).unwrap(), "ftp://x", |_| {}));
    let told = format!("{:#}", wrong.unwrap_err());
    assert!(told.contains("--url") && told.contains("http://HOST:PORT"), "{told}");
}

#[test]
fn an_import_into_a_directory_is_durable_and_lines_come_back_as_they_went_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = fixture(dir.path());
    let lines = dir.path().join("events.ndjson");
    let out = std::fs::File::create(&lines).unwrap();
    assert_eq!(import::write_lines(import::read(Format::Ml1m, &path, NOW).unwrap(), out).unwrap(), 2_400);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let data = dir.path().join("data");
    let refused =
        runtime.block_on(import::into_directory(import::read(Format::Ndjson, &lines, NOW).unwrap(), &data, |_| {}));
    assert!(refused.unwrap_err().to_string().contains("is no data directory"));
    assert!(!data.exists(), "a mistyped directory is not made");
    drop(CatalogStore::open(&data).unwrap());
    for accepted in [2_400, 0] {
        let events = import::read(Format::Ndjson, &lines, NOW).unwrap();
        let figures = runtime.block_on(import::into_directory(events, &data, |_| {})).unwrap();
        assert_eq!((figures.accepted, figures.accepted + figures.duplicate), (accepted, 2_400));
    }
}
