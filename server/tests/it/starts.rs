//! Starts that must not succeed, or not go on: files that are gone or damaged, half-made worlds, signals, a disk that fails.

use crate::ledger::{T0, wait};
use crate::process::{Link, Process, leave_at, log, start_in_vain};
use longbow::deadline::ManualClock;
use longbow::events::{EventLog, LogOptions};
use longbow::ids::{Id, ItemKey};
use longbow::ledger::{Ledger, Options};
use longbow::money::Micros;
use longbow::store::{CatalogKind, CatalogRecord, CatalogStore, History, StoreOptions, UserStore};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::sync::Arc;

fn spent(server: &Process) -> i64 {
    let mut link = Link::new(server.admin);
    let plans = link.call("GET", "/v1/plans?limit=1000", "").json();
    let ids: Vec<&str> = plans["records"].as_array().unwrap().iter().map(|plan| plan["id"].as_str().unwrap()).collect();
    let balances = ids.into_iter().map(|id| link.call("GET", &format!("/v1/plans/{id}/balance"), "").json());
    balances.map(|money| money["spent_micros"].as_i64().unwrap()).sum()
}

fn leave(server: Process) {
    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_ledger_that_is_gone_is_not_begun_anew_and_a_lost_key_is_told() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("data");
    let settings = ["drain.delay_ms=0"];
    let server = Process::start("demo", &dir, &settings);
    let request = json!({"id": "1", "imp": [{"id": "1", "banner": {"w": 300, "h": 250}}], "site": {"id": "s"},
                         "user": {"id": "user-00001"}, "tmax": 2000});
    let mut link = Link::new(server.http);
    let answer = link.call("POST", "/openrtb2/bid", &request.to_string()).json();
    let bid = &answer["seatbid"][0]["bid"][0];
    let win = crate::e2e_bid::notice(bid["nurl"].as_str().unwrap(), &bid["price"].to_string());
    assert_eq!(link.call("GET", &win, "").status, 204);
    let money = spent(&server);
    assert!(money > 0);
    leave(server);

    let (ledger, aside) = (dir.join("ledger.redb"), home.path().join("backup"));
    fs::rename(&ledger, &aside).unwrap();
    for _ in 0..2 {
        // The second time finds the empty file that the first one made.
        assert_eq!(start_in_vain("serve", &dir, &settings), Some(1));
        let told = log(&dir);
        let line = told.lines().last().unwrap();
        assert!(line.contains(ledger.to_str().unwrap()) && line.contains("models/current"), "{line}");
    }
    fs::copy(&aside, &ledger).unwrap();
    let server = Process::start("serve", &dir, &settings);
    assert_eq!(spent(&server), money);
    assert!(!log(&dir).contains("the notice key was missing"));
    leave(server);

    // The other way out, and a key that is gone.
    fs::remove_file(&ledger).unwrap();
    fs::remove_file(dir.join("models/current")).unwrap();
    leave(Process::start("serve", &dir, &settings));
    fs::remove_file(dir.join("notices.key")).unwrap();
    let server = Process::start("serve", &dir, &settings);
    assert_eq!(spent(&server), 0);
    assert!(log(&dir).contains("the notice key was missing"));
    assert_eq!(Link::new(server.http).call("GET", &win, "").status, 403);
}

#[test]
fn a_start_that_fails_leaves_open_holds_as_it_found_them() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("data");
    let settings = ["drain.delay_ms=0"];
    let server = Process::start("demo", &dir, &settings);
    let request = json!({"id": "1", "imp": [{"id": "1", "banner": {"w": 300, "h": 250}}], "site": {"id": "s"},
                         "user": {"id": "user-00001"}, "tmax": 2000});
    let answer = Link::new(server.http).call("POST", "/openrtb2/bid", &request.to_string()).json();
    let bid = &answer["seatbid"][0]["bid"][0];
    let win = crate::e2e_bid::notice(bid["nurl"].as_str().unwrap(), &bid["price"].to_string());
    leave(server);

    // A file that is there, so that the start gets as far as reading it, and is no model.
    let bad = home.path().join("bad.safetensors");
    fs::write(&bad, "no model at all").unwrap();
    let model = format!("model.path={}", bad.display());
    assert_eq!(start_in_vain("serve", &dir, &["drain.delay_ms=0", &model]), Some(1));
    let told = log(&dir);
    assert!(told.lines().last().unwrap().contains("bad.safetensors"), "{told}");

    let server = Process::start("serve", &dir, &settings);
    assert_eq!(Link::new(server.http).call("GET", &win, "").status, 204);
    let mut link = Link::new(server.admin);
    let balance = link.call("GET", &format!("/v1/plans/{}/balance", bid["cid"].as_str().unwrap()), "").json();
    assert!(balance["spent_micros"].as_i64() > Some(0), "{balance}");
    assert_eq!(balance["late_micros"], 0, "the hold was still known: {balance}");
    let metrics = String::from_utf8(link.call("GET", "/metrics", "").body).unwrap();
    assert!(metrics.contains("longbow_notices_total{kind=\"win\",outcome=\"settled\"} 1\n"), "{metrics}");
    leave(server);
}

#[test]
fn a_signal_ends_a_start_and_a_half_made_world_is_not_served() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("data");
    // More than can be made before the signal comes.
    let settings = ["demo.users=60000", "demo.long_users=2000", "drain.delay_ms=0"];
    assert_eq!(leave_at("making the demo world", "demo", &dir, &settings), Some(0));
    let marker: Value = serde_json::from_slice(&fs::read(dir.join("demo.json")).unwrap()).unwrap();
    assert_eq!(marker["whole"], false, "it was left where the signal found it");
    assert_eq!(start_in_vain("serve", &dir, &[]), Some(1));
    let told = log(&dir);
    let line = told.lines().last().unwrap();
    assert!(line.contains("half-made demo world"), "{line}");
}

#[test]
fn a_disk_that_fails_is_logged_once_and_not_for_every_batch() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("data");
    let server = Process::start("demo", &dir, &["events.segment_mib=1"]);
    let mut link = Link::new(server.http);
    let mut post = |batch: usize| {
        let events: Vec<Value> = (0..8_000)
            .map(|n| json!({"id": format!("a-rather-long-id-of-an-event-{batch}-{n}"), "user": format!("u{n}"), "item": "7"}))
            .collect();
        link.call("POST", "/v1/events", &json!(events).to_string()).status
    };
    assert_eq!(post(0), 200);
    // Once the segment is full, the next one finds no place.
    fs::remove_dir_all(dir.join("events")).unwrap();
    let statuses: Vec<u16> = (1..10).map(&mut post).skip_while(|&status| status == 200).collect();
    assert!(statuses.len() >= 5 && statuses.iter().all(|&status| status == 503), "{statuses:?}");
    // The next control tick tells.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while Link::new(server.admin).call("GET", "/readyz", "").status != 503 {
        assert!(std::time::Instant::now() < until, "ready without its event log");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let told = log(&dir);
    let errors: Vec<&str> = told.lines().filter(|line| line.contains("\"level\":\"ERROR\"")).collect();
    // The log's own line and that of the store above it.
    assert!((1..=2).contains(&errors.len()), "{errors:#?}");
    assert!(errors[0].contains(".log"), "which file: {}", errors[0]);
}

const MARK: &str = "a-name-to-be-found-in-the-file";

/// A data directory with a row in each file that has `MARK` in it.
fn fill(dir: &Path) {
    let catalog = CatalogStore::open(dir).unwrap();
    let record = CatalogRecord { kind: CatalogKind::Item, id: Id::from(MARK), json: b"{}".to_vec() };
    wait(catalog.put_many(vec![record])).unwrap();
    let ledger = open_ledger(dir).unwrap();
    wait(ledger.set_budget(&Id::from(MARK), Micros(1_000_000))).unwrap();
    wait(ledger.close()).unwrap();
    let users = open_users(dir).unwrap();
    let mut history = History::default();
    history.push(ItemKey(1), 1, T0);
    wait(users.import(vec![(Id::from(MARK), history)])).unwrap();
}

fn open_ledger(dir: &Path) -> Result<Ledger, String> {
    let clock = Arc::new(ManualClock::at_micros(T0 * 1_000_000));
    Ledger::open(dir, Options::default(), clock).map_err(|error| error.to_string())
}

fn open_users(dir: &Path) -> Result<UserStore, String> {
    let log = Arc::new(EventLog::open(&dir.join("events"), LogOptions::default()).unwrap());
    let clock = Arc::new(ManualClock::at_micros(T0 * 1_000_000));
    UserStore::open(dir, StoreOptions::default(), log, clock).map_err(|error| error.to_string())
}

fn read_catalog(dir: &Path) -> Result<(), String> {
    let catalog = CatalogStore::open(dir).map_err(|error| error.to_string())?;
    catalog.load_all(CatalogKind::Item, &mut |_, _| {}).map_err(|error| error.to_string())
}

/// Overwrites every page but the header, or those only that hold `MARK`.
fn damage(path: &Path, all: bool) {
    const PAGE: usize = 4_096;
    let mut bytes = fs::read(path).unwrap();
    let mut hit = 0;
    for page in bytes.chunks_mut(PAGE).skip(1) {
        if all || page.windows(MARK.len()).any(|window| window == MARK.as_bytes()) {
            page.fill(0xa5);
            hit += 1;
        }
    }
    assert!(hit > 0, "{}", path.display());
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_file_is_named_with_what_to_do() {
    type Open = fn(&Path) -> Result<(), String>;
    let files: [(&str, Open, &[bool]); 3] = [
        ("catalog.redb", read_catalog, &[true, false]),
        ("ledger.redb", |dir| open_ledger(dir).map(drop), &[true, false]),
        // A start reads no single history.
        ("users.redb", |dir| open_users(dir).map(drop), &[true]),
    ];
    for (name, open, ways) in files {
        for &all in ways {
            let dir = tempfile::tempdir().unwrap();
            fill(dir.path());
            open(dir.path()).unwrap();
            let path = dir.path().join(name);
            damage(&path, all);
            let told = open(dir.path()).expect_err(name);
            let begins = format!("{} is damaged (", path.display());
            assert!(told.starts_with(&begins) && told.ends_with(": restore it from a backup"), "{told}");
        }
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path());
        let path = dir.path().join(name);
        let half = fs::metadata(&path).unwrap().len() / 2;
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(half).unwrap();
        let told = open(dir.path()).expect_err(name);
        assert!(told.starts_with(&format!("{} is damaged (", path.display())), "{told}");
    }
}
