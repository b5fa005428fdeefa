//! Real users and real bid log lines from the data beside the checkout, through a whole server over real sockets.

use crate::eval::args;
use crate::ipinyou::to_openrtb;
use crate::openrtb_validate::problems;
use crate::shared::shared;
use crate::world::World;
use longbow::app::Stores;
use longbow::config::Config;
use longbow::deadline::{SystemClock, WallClock};
use longbow::eval::{EvalArgs, Source, evaluate};
use longbow::ids::{Id, ItemKey};
use longbow::import::{self, Figures, Format};
use longbow::store::History;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Last time of files without times.
const NOW: i64 = 1_700_000_000;

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Posts a file to the world's `/v1/events`.
fn post(world: &World, format: Format, path: &Path) -> Figures {
    let events = import::read(format, path, NOW).unwrap();
    block_on(import::post(events, &format!("http://{}", world.http), |_| {})).unwrap()
}

fn accepted(count: usize) -> Figures {
    Figures { accepted: count, ..Figures::default() }
}

/// Events of each user of a file.
fn histories(format: Format, path: &Path) -> BTreeMap<Id, Vec<(i64, ItemKey)>> {
    let mut all: BTreeMap<Id, Vec<(i64, ItemKey)>> = BTreeMap::new();
    for event in import::read(format, path, NOW).unwrap() {
        let event = event.unwrap().stored(NOW).unwrap();
        all.entry(event.user).or_default().push((event.time, event.item));
    }
    all.values_mut().for_each(|events| events.sort_by_key(|(time, _)| *time));
    all
}

/// Events of a user as the server counts them.
fn counted(world: &World, user: &Id) -> Value {
    world.admin("GET", &format!("/v1/users/{user}"), "").json()["events"].clone()
}

/// Asks twice for `user` and checks the answer.
fn ranks(world: &World, user: &Id, time: i64) {
    let ask = json!({"user": user, "k": 15, "time": time, "deadline_ms": 2_000});
    let first = world.post("/v1/rank", &ask);
    assert_eq!(first.status, 200, "user {user}: {first:?}");
    let first = first.json();
    let items = first["items"].as_array().unwrap();
    assert_eq!(items.len(), 15, "user {user}");
    assert!(first["history_events"].as_u64().unwrap() > 0, "user {user}: {first}");
    let distinct: HashSet<&str> = items.iter().map(|item| item["id"].as_str().unwrap()).collect();
    assert_eq!(distinct.len(), 15);
    for item in items {
        for score in ["score", "click", "conversion", "value", "similarity"] {
            assert!(item[score].as_f64().is_some_and(f64::is_finite), "{score} of {item}");
        }
    }
    let again = world.post("/v1/rank", &ask).json();
    assert_eq!((&again["items"], &again["degraded"]), (&first["items"], &first["degraded"]), "user {user}");
}

/// What a stopped server's directory holds of these users.
fn stored(dir: PathBuf, users: impl Iterator<Item = Id>) -> BTreeMap<Id, Arc<History>> {
    let mut config = Config::default();
    config.data.dir = dir;
    let clock: Arc<dyn WallClock> = Arc::new(SystemClock);
    block_on(async {
        let stores = Stores::open(&config, &clock).unwrap();
        let mut all = BTreeMap::new();
        for user in users {
            all.insert(user.clone(), stores.users.load(&user).await.unwrap());
        }
        stores.ledger.close().await.unwrap();
        all
    })
}

#[test]
fn display_ad_users_load_and_get_rankings() {
    let Some(dir) = shared("data/histories/taobao-display-ads") else { return };
    let files = ["train_user_features.parquet", "test_user_features.parquet"].map(|file| dir.join(file));
    let world = World::new();
    let mut users = BTreeMap::new();
    for file in &files {
        let found = histories(Format::Taobao, file);
        assert_eq!(found.len(), 10);
        assert!(found.values().all(|events| (351..=1_000).contains(&events.len())));
        let count = found.values().map(Vec::len).sum();
        assert_eq!(post(&world, Format::Taobao, file), accepted(count));
        let again = Figures { duplicate: count, ..Figures::default() };
        assert_eq!(post(&world, Format::Taobao, file), again, "a second import adds nothing");
        users.extend(found);
    }
    assert_eq!(users.len(), 20, "train and test users are different people");
    assert!(users.values().flatten().any(|(_, item)| item.0 < 0), "the set has negative items");
    for (user, events) in &users {
        assert_eq!(counted(&world, user), events.len(), "user {user}");
        ranks(&world, user, NOW + 60);
    }
    let dir = world.dir.clone();
    drop(world);
    for (user, history) in stored(dir, users.keys().cloned()) {
        let kept: Vec<(i64, ItemKey)> = history.times.iter().copied().zip(history.items.iter().copied()).collect();
        assert_eq!(kept, users[&user], "user {user}: every 64-bit item in its place");
    }
}

#[test]
fn movie_ratings_with_their_times_load_rank_and_evaluate() {
    let Some(file) = shared("data/histories/ml-100k.inter") else { return };
    // Counted without the reader that is under test.
    let text = std::fs::read_to_string(&file).unwrap();
    let mut events: BTreeMap<Id, usize> = BTreeMap::new();
    for line in text.lines().skip(1) {
        *events.entry(line.split('\t').next().unwrap().into()).or_default() += 1;
    }
    assert_eq!((events.len(), events.values().sum::<usize>()), (943, 100_000));

    let world = World::new();
    assert_eq!(post(&world, Format::Movielens, &file), accepted(100_000));
    let again = Figures { duplicate: 100_000, ..Figures::default() };
    assert_eq!(post(&world, Format::Movielens, &file), again);
    events.iter().for_each(|(user, count)| assert_eq!(counted(&world, user), *count, "user {user}"));
    events.keys().step_by(37).for_each(|user| ranks(&world, user, 900_000_000));
    evaluation(&world, &file);
    let dir = world.dir.clone();
    drop(world);
    for (user, history) in stored(dir, events.keys().cloned()) {
        assert_eq!((history.len(), history.dropped), (events[&user], 0), "user {user}");
        assert!(history.is_sound());
    }
}

fn evaluation(world: &World, file: &Path) {
    let args = EvalArgs {
        format: Source::Movielens,
        users: NonZeroUsize::new(20).unwrap(),
        k: Vec::new(),
        lengths: [10, 1_000].map(|length| NonZeroUsize::new(length).unwrap()).to_vec(),
        seed: 5,
        ..args(world, file)
    };
    let report = block_on(Box::pin(evaluate(&args, Arc::new(|_: &str| {})))).unwrap();
    assert_eq!((report.users, report.users_in_file), (20, 943));
    let next = report.next.as_ref().unwrap();
    let skipped = next.skipped;
    assert_eq!(report.users, next.evaluated + skipped.too_short + skipped.unknown_item);
    assert_eq!(skipped.too_short, 0, "everybody rated 20 films or more");
    assert!(next.evaluated > 0);
    // The world has items 1 to 600, the file 1 to 1682.
    assert_eq!((report.items.in_file, report.items.unknown), (1_682, 1_082));
    assert_eq!(report.items.unknown_named[0].as_str(), "601");
    assert_eq!(report.limits.deadline_ms, 2_000, "the server's own limit");
    assert_eq!(report.models.len(), 1);
    for at in &next.lengths {
        let answers = &at.answers;
        assert_eq!(answers.answered + answers.failed, next.evaluated, "{at:?}");
        assert_eq!(answers.failed, 0, "{at:?}");
        assert!(answers.degraded <= answers.answered);
        let quality = &at.quality;
        assert!(quality.recall[&10].value <= quality.recall[&100].value);
        assert!(quality.ndcg[&10].value <= quality.ndcg[&100].value);
    }
    assert_eq!(next.lengths[0].users_with_all, next.evaluated, "10 events are in every history");
    assert!(next.popularity.recall[&100].value > 0.0, "the most popular hundred films hit somebody's next: {report:?}");
}

#[test]
fn bid_log_lines_are_answered_as_requests() {
    let Some(file) = shared("data/bidding/ipinyou-2259/test.log.txt") else { return };
    let text = std::fs::read_to_string(file).unwrap();
    const YUAN: f64 = 0.16;
    let world = World::start(tempfile::tempdir().unwrap().keep(), |config| {
        config.currencies.rates.insert("CNY".to_owned(), YUAN);
    });
    let rates = |code: &str| match code {
        "USD" => Some(1.0),
        "CNY" => Some(YUAN),
        _ => None,
    };
    let (mut bids, mut sold) = (0, 0);
    for (number, line) in text.lines().take(200).enumerate() {
        let mut request = to_openrtb(line).unwrap();
        // What is checked is the answer; a busy machine must not turn it into a no-bid.
        request["tmax"] = json!(2_000);
        let banner = &request["imp"][0]["banner"];
        sold += usize::from(["300x250", "728x90"].contains(&&*format!("{}x{}", banner["w"], banner["h"])));
        let answer = world.post("/openrtb2/bid", &request);
        match answer.status {
            200 => {
                let body: Value = answer.json();
                assert_eq!(problems(&request, &body, &rates), Vec::<String>::new(), "line {}: {body}", number + 1);
                bids += 1;
            }
            204 => assert!(answer.body.is_empty()),
            _ => panic!("line {}: {answer:?}", number + 1),
        }
    }
    // The world has banners of these two sizes of the log's, and bids on every such slot.
    assert_eq!(bids, sold);
    assert!(bids > 50, "{bids}");
}
