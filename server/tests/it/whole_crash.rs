//! The promise under `kill -9`: whatever the server acknowledged is there after a restart, once, and no plan is over its budget.

#![expect(clippy::cast_possible_truncation, reason = "amounts of a test are small")]

use crate::e2e_bid::notice;
use crate::process::{Link, Lost, Process, start_and_kill};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

const USERS: u32 = 100;
const CLIENTS: u64 = 4;
const ROUNDS: u64 = 6;
const SEED: u64 = 20_241;
/// Bids that a poor plan can pay for, about: half of the plans run out under load.
const POOR_BIDS: i64 = 25;

/// A win notice that was sent.
struct Win {
    url: String,
    plan: String,
    micros: i64,
    acknowledged: bool,
}

/// A batch of events that was sent.
struct Batch {
    body: String,
    users: Vec<String>,
    acknowledged: bool,
}

/// What the clients know: the truth that the server is held to.
#[derive(Default)]
struct Truth {
    wins: Vec<Win>,
    batches: Vec<Batch>,
    bids: usize,
    losses: usize,
}

impl Truth {
    fn add(&mut self, other: Self) {
        self.wins.extend(other.wins);
        self.batches.extend(other.batches);
        self.bids += other.bids;
        self.losses += other.losses;
    }

    /// Micros by plan: of acknowledged wins, and of all.
    fn money(&self) -> BTreeMap<&str, (i64, i64)> {
        let mut sums = BTreeMap::<&str, (i64, i64)>::new();
        for win in &self.wins {
            let sum = sums.entry(&win.plan).or_default();
            sum.0 += if win.acknowledged { win.micros } else { 0 };
            sum.1 += win.micros;
        }
        sums
    }

    /// Events by user: of acknowledged batches, and of all.
    fn events(&self) -> HashMap<&str, (u64, u64)> {
        let mut sums = HashMap::<&str, (u64, u64)>::new();
        for batch in &self.batches {
            for user in &batch.users {
                let sum = sums.entry(user).or_default();
                sum.0 += u64::from(batch.acknowledged);
                sum.1 += 1;
            }
        }
        sums
    }
}

fn user_of(rng: &mut StdRng) -> String {
    format!("user-{:05}", rng.random_range(1..=USERS))
}

/// Asks for a bid; wins most of what it gets, at the price bid.
fn auction(link: &mut Link, truth: &mut Truth, rng: &mut StdRng, name: &str) -> Result<(), Lost> {
    let size = [(300, 250), (300, 250), (320, 50), (728, 90)][rng.random_range(0..4)];
    let imps: Vec<Value> = (0..rng.random_range(1..=2))
        .map(|imp| json!({"id": imp.to_string(), "banner": {"w": size.0, "h": size.1}}))
        .collect();
    let request = json!({"id": name, "imp": imps, "site": {"id": "s"}, "user": {"id": user_of(rng)}, "tmax": 2000});
    let reply = link.ask("POST", "/openrtb2/bid", &request.to_string())?;
    assert!(matches!(reply.status, 200 | 204), "{reply:?}");
    if reply.status == 204 {
        return Ok(());
    }
    let answer = reply.json();
    let seats = answer["seatbid"].as_array().unwrap();
    for bid in seats.iter().flat_map(|seat| seat["bid"].as_array().unwrap()) {
        truth.bids += 1;
        let price = bid["price"].to_string();
        let url = |name: &str| notice(bid[name].as_str().unwrap(), &price);
        match rng.random_range(0..10) {
            // Written down before it is sent: a kill may come between the charge and its answer.
            0..7 => {
                truth.wins.push(Win {
                    url: url("nurl"),
                    plan: bid["cid"].as_str().unwrap().to_owned(),
                    micros: (bid["price"].as_f64().unwrap() * 1000.0).round() as i64,
                    acknowledged: false,
                });
                let win = truth.wins.last_mut().unwrap();
                let reply = link.ask("GET", &win.url, "")?;
                assert_eq!(reply.status, 204, "{reply:?}");
                win.acknowledged = true;
            }
            7..9 => {
                assert_eq!(link.ask("GET", &url("lurl"), "")?.status, 204);
                truth.losses += 1;
            }
            // Nobody ever says what became of it.
            _ => {}
        }
    }
    Ok(())
}

fn behave(link: &mut Link, truth: &mut Truth, rng: &mut StdRng, name: &str) -> Result<(), Lost> {
    let users: Vec<String> = (0..rng.random_range(1..=8)).map(|_| user_of(rng)).collect();
    let events: Vec<Value> = users
        .iter()
        .enumerate()
        .map(|(at, user)| {
            let item = rng.random_range(1..=3000).to_string();
            json!({"id": format!("{name}-{at}"), "user": user, "item": item, "action": "click"})
        })
        .collect();
    let body = json!(events).to_string();
    truth.batches.push(Batch { body, users, acknowledged: false });
    let batch = truth.batches.last_mut().unwrap();
    let reply = link.ask("POST", "/v1/events", &batch.body)?;
    assert_eq!((reply.status, reply.json()["accepted"].as_u64()), (200, Some(batch.users.len() as u64)));
    batch.acknowledged = true;
    Ok(())
}

/// Loads the server until it is gone.
fn client(address: SocketAddr, round: u64, number: u64) -> Truth {
    let mut rng = StdRng::seed_from_u64(SEED ^ round << 8 ^ number);
    let mut link = Link::new(address);
    let mut truth = Truth::default();
    for turn in 0.. {
        let name = format!("r{round}-c{number}-{turn}");
        let outcome = if rng.random_ratio(1, 3) {
            behave(&mut link, &mut truth, &mut rng, &name)
        } else {
            auction(&mut link, &mut truth, &mut rng, &name)
        };
        if outcome.is_err() {
            return truth;
        }
    }
    truth
}

fn load_until_killed(server: Process, round: u64, wait: Duration) -> Truth {
    let address = server.http;
    let clients: Vec<_> =
        (0..CLIENTS).map(|number| std::thread::spawn(move || client(address, round, number))).collect();
    std::thread::sleep(wait);
    server.kill();
    let mut truth = Truth::default();
    clients.into_iter().for_each(|client| truth.add(client.join().unwrap()));
    truth
}

/// (granted, held, spent, free) by plan.
fn balances(server: &Process) -> BTreeMap<String, [i64; 4]> {
    let mut link = Link::new(server.admin);
    let plans = link.call("GET", "/v1/plans?limit=1000", "").json();
    let plans: Vec<String> =
        plans["records"].as_array().unwrap().iter().map(|plan| plan["id"].as_str().unwrap().to_owned()).collect();
    let columns = plans.into_iter().map(|plan| {
        let money = link.call("GET", &format!("/v1/plans/{plan}/balance"), "").json();
        let column = |name: &str| money[name].as_i64().unwrap();
        let columns = [column("granted_micros"), column("held_micros"), column("spent_micros"), column("free_micros")];
        assert!(columns.iter().all(|&column| column >= 0), "{money}");
        assert_eq!(columns[0], columns[1] + columns[2] + columns[3], "{money}");
        (plan, columns)
    });
    columns.collect()
}

fn histories(server: &Process) -> HashMap<String, u64> {
    let mut link = Link::new(server.admin);
    let users = (1..=USERS).map(|number| format!("user-{number:05}"));
    let events = users.map(|user| {
        let facts = link.call("GET", &format!("/v1/users/{user}"), "").json();
        let events = facts["events"].as_u64().unwrap();
        (user, events)
    });
    events.collect()
}

/// Holds a restarted server to the truth, sends everything again, and holds it to the truth once more.
fn check(server: &Process, truth: &mut Truth, before: &HashMap<String, u64>) {
    let found = balances(server);
    for (plan, (acknowledged, sent)) in truth.money() {
        let spent = found[plan][2];
        assert!((acknowledged..=sent).contains(&spent), "{plan}: spent {spent} of {acknowledged} to {sent}");
    }
    let kept = histories(server);
    for (user, (acknowledged, sent)) in truth.events() {
        let new = kept[user] - before[user];
        assert!((acknowledged..=sent).contains(&new), "{user}: {new} new events of {acknowledged} to {sent}");
    }

    let mut link = Link::new(server.http);
    for win in &mut truth.wins {
        assert_eq!(link.call("GET", &win.url, "").status, 204, "{}", win.url);
        win.acknowledged = true;
    }
    for batch in &mut truth.batches {
        let answer = link.call("POST", "/v1/events", &batch.body).json();
        let (accepted, known) = (answer["accepted"].as_u64().unwrap(), answer["duplicate"].as_u64().unwrap());
        assert_eq!(accepted + known, batch.users.len() as u64, "{answer}");
        assert!(!batch.acknowledged || accepted == 0, "an acknowledged batch was taken again: {answer}");
        batch.acknowledged = true;
    }
    let found = balances(server);
    for (plan, (_, sent)) in truth.money() {
        assert_eq!(found[plan][2], sent, "{plan}: every win is charged once");
    }
    let kept = histories(server);
    for (user, (_, sent)) in truth.events() {
        assert_eq!(kept[user] - before[user], sent, "{user}: every event counts once");
    }
}

/// Lowers the budgets of every other plan.
fn make_some_poor(server: &Process) {
    let mut link = Link::new(server.admin);
    let budget = json!({"budget_micros": POOR_BIDS * 10_000}).to_string();
    for plan in balances(server).into_keys().step_by(2) {
        let reply = link.call("PATCH", &format!("/v1/plans/{plan}"), &budget);
        assert_eq!(reply.status, 200, "{plan}: {}", reply.json());
    }
}

fn in_order(server: Process, dir: &Path, settings: &[&str]) -> Process {
    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
    Process::start("serve", dir, settings)
}

#[test]
fn what_was_acknowledged_survives_kills_at_any_moment() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("data");
    let settings = ["auction.tick_ms=50", "drain.delay_ms=0"];
    let mut rng = StdRng::seed_from_u64(SEED);
    let began = Instant::now();
    let mut server = Process::start("demo", &dir, &settings);
    let start_time = began.elapsed();
    make_some_poor(&server);
    let before = histories(&server);
    let mut truth = Truth::default();
    for round in 0..ROUNDS {
        truth.add(load_until_killed(server, round, Duration::from_millis(rng.random_range(100..1_500))));
        if round % 2 == 1 {
            // Once more while it recovers: what that leaves is recovered as well.
            start_and_kill("serve", &dir, &settings, start_time.mul_f64(rng.random_range(0.1..0.8)));
        }
        server = Process::start("serve", &dir, &settings);
        check(&server, &mut truth, &before);
    }
    // A planned end moves nothing at all.
    let money = balances(&server);
    let server = in_order(server, &dir, &settings);
    assert_eq!(balances(&server), money);
    check(&server, &mut truth, &before);
    let events: usize = truth.batches.iter().map(|batch| batch.users.len()).sum();
    let (wins, took) = (truth.wins.len(), began.elapsed());
    let broke = money.values().filter(|[_, _, _, free]| *free < 20_000).count();
    println!(
        "{ROUNDS} kills: {} bids, {wins} wins, {} losses, {events} events, {broke} plans without money, {took:?}",
        truth.bids, truth.losses
    );
    assert!(broke > 0, "no budget was ever used up");
    assert!(wins > 100 && truth.losses > 10 && events > 100, "there was no load to speak of");
}

#[test]
fn a_demo_world_cut_short_is_made_again() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("data");
    let mut rng = StdRng::seed_from_u64(SEED);
    for _ in 0..4 {
        start_and_kill("demo", &dir, &[], Duration::from_millis(rng.random_range(20..700)));
    }
    let server = Process::start("demo", &dir, &[]);
    assert_eq!(balances(&server).len(), 60);
    assert_eq!(histories(&server)["user-00001"], 800);
    let ranked = Link::new(server.http).call(
        "POST",
        "/v1/rank",
        &json!({"user": "user-00001", "k": 9, "deadline_ms": 2_000}).to_string(),
    );
    assert_eq!(ranked.json()["items"].as_array().unwrap().len(), 9);
}
