//! `kill -9` at random moments, recovery included. The child is this test binary itself.
//!
//! `LONGBOW_CRASH_SECONDS` makes the loop longer. `scripts/power-cut` uses the same child on a file system that is shut
//! down under it.

use crate::ledger::wait;
use longbow::deadline::SystemClock;
use longbow::events::{EventLog, LogOptions, RecordKind};
use longbow::ids::{Id, ItemKey};
use longbow::ledger::{BidId, DurableLedger, Ledger, Notice, Options, Settlement};
use longbow::money::Micros;
use longbow::store::{EventOutcome, StoreOptions, UserEvent, UserStore};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::collections::{HashMap, HashSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PLANS: u128 = 3;
const USERS: u64 = 40;

/// What a child was told is safe.
#[derive(Default, Debug)]
pub(crate) struct Acked {
    /// bid -> price
    charges: HashMap<u128, i64>,
    events: HashSet<u64>,
    budgets: HashMap<String, i64>,
    pub(crate) poisoned: bool,
    pub(crate) finished: bool,
}

impl Acked {
    pub(crate) fn len(&self) -> usize {
        self.charges.len() + self.events.len()
    }

    /// Takes one line of a child's output. True for the line that says it is serving.
    pub(crate) fn take(&mut self, line: &str) -> bool {
        // The test harness may have left something before the line.
        let Some(line) = line.find("ACK ").map(|at| &line[at + 4..]) else { return false };
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["S", bid, price] => drop(self.charges.insert(bid.parse().unwrap(), price.parse().unwrap())),
            ["E", number] => drop(self.events.insert(number.parse().unwrap())),
            ["B", plan, granted] => drop(self.budgets.insert(plan.to_owned(), granted.parse().unwrap())),
            ["P"] => self.poisoned = true,
            ["D"] => self.finished = true,
            ["R"] => return true,
            _ => {}
        }
        false
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "ACK {line}").and_then(|()| out.flush()).unwrap();
}

fn store_options() -> StoreOptions {
    StoreOptions { checkpoint_events: 64, checkpoint_ms: 20, ..StoreOptions::default() }
}

fn log_options() -> LogOptions {
    LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() }
}

fn event(number: u64) -> UserEvent {
    UserEvent {
        event_id: Id::from(format!("e{number}").as_str()),
        user: Id::from(format!("u{}", number % USERS).as_str()),
        item: ItemKey(i64::try_from(number).unwrap()),
        action: 2,
        time: 1_700_000_000 + i64::try_from(number / 3).unwrap(),
        value_micros: None,
        plan: None,
        creative: None,
        bid: None,
    }
}

/// The child's work: money and events, each acknowledged on standard output.
async fn work(dir: &Path, start: u64, rounds: u64) -> Result<(), String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let clock = Arc::new(SystemClock);
    let ledger =
        Ledger::open(dir, Options { hold_max_s: 5, ..Options::default() }, clock.clone()).map_err(|e| text(&e))?;
    let log = Arc::new(EventLog::open(&dir.join("events"), log_options()).map_err(|e| text(&e))?);
    let store = UserStore::open(dir, store_options(), log, clock).map_err(|e| text(&e))?;
    say("R");
    let money = async {
        for round in start..start + rounds {
            let plan = format!("p{}", u128::from(round) % PLANS);
            let id = Id::from(plan.as_str());
            let granted = 1_000_000_000 + i64::try_from(round).unwrap() * 1_000;
            let account = ledger.set_budget(&id, Micros(granted)).await.map_err(|e| text(&e))?;
            say(&format!("B {plan} {granted}"));
            for n in 0..8u64 {
                let bid = u128::from(round * 8 + n) * PLANS + u128::from(round) % PLANS;
                let price = i64::try_from(100 + bid % 900).unwrap();
                let now = longbow::deadline::WallClock::seconds(&SystemClock);
                let held = ledger.reserve(account, BidId(bid), Micros(price + 3), now + 4);
                if n == 7 {
                    ledger.release(account, BidId(bid));
                    continue;
                }
                if let (Err(error), Some(_)) = (held, ledger.poisoned()) {
                    return Err(text(&error));
                }
                let settlement = Settlement {
                    account,
                    bid: BidId(bid),
                    notice: Notice::Win,
                    price: Micros(price),
                    bid_amount: Micros(price + 3),
                    issued_at: now,
                };
                ledger.settle(settlement).await.map_err(|e| text(&e))?;
                say(&format!("S {bid} {price}"));
            }
        }
        Ok(())
    };
    let events = async {
        for round in start..start + rounds {
            let numbers: Vec<u64> = (0..5).map(|n| round * 5 + n).collect();
            let batch: Vec<UserEvent> = numbers.iter().map(|n| event(*n)).collect();
            let mut twice = batch.clone();
            twice.extend(batch);
            for (outcome, number) in store.append(twice).await.map_err(|e| text(&e))?.iter().zip(&numbers) {
                assert!(matches!(outcome, EventOutcome::Accepted | EventOutcome::Duplicate), "{outcome:?}");
                say(&format!("E {number}"));
            }
        }
        Ok(())
    };
    let (money, events): (Result<(), String>, Result<(), String>) = tokio::join!(money, events);
    if ledger.poisoned().is_some() || store.poisoned().is_some() {
        say("P");
    }
    money.and(events)
}

/// Does nothing in a normal run. In a child: works, or checks a directory against a file of acknowledgements.
#[test]
fn crash_child() {
    let Ok(dir) = std::env::var("LONGBOW_CRASH_DIR") else { return };
    if let Ok(list) = std::env::var("LONGBOW_CRASH_VERIFY") {
        let mut acked = Acked::default();
        for line in std::fs::read_to_string(list).unwrap().lines() {
            acked.take(line);
        }
        match verify(Path::new(&dir), &acked) {
            Ok(()) => say("OK"),
            Err(fault) => say(&format!("LOST {fault}")),
        }
        return;
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let (start, rounds) =
        (number("LONGBOW_CRASH_START").unwrap_or(0), number("LONGBOW_CRASH_ROUNDS").unwrap_or(100_000));
    match wait(work(Path::new(&dir), start, rounds)) {
        Ok(()) => say("D"),
        Err(fault) => say(&format!("F {fault}")),
    }
}

pub(crate) fn child(dir: &Path, start: u64) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["crash::crash_child", "--exact", "--nocapture", "--test-threads=1"]);
    command.env("LONGBOW_CRASH_DIR", dir).env("LONGBOW_CRASH_START", start.to_string());
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

/// Opens what a dead process left and checks it against what it had acknowledged.
pub(crate) fn verify(dir: &Path, acked: &Acked) -> Result<(), String> {
    verify_money(dir, acked)?;
    verify_events(dir, acked)
}

fn verify_money(dir: &Path, acked: &Acked) -> Result<(), String> {
    let durable = DurableLedger::open(&dir.join("ledger.redb"), 1 << 20).map_err(|e| e.to_string())?;
    let settled: HashMap<u128, i64> =
        durable.settled_all().map_err(|e| e.to_string())?.iter().map(|(bid, row)| (bid.0, row.price.0)).collect();
    for (bid, price) in &acked.charges {
        if settled.get(bid) != Some(price) {
            return Err(format!("charge {bid} of {price} was acknowledged and is {:?}", settled.get(bid)));
        }
    }
    let records: HashMap<String, _> = durable
        .load()
        .map_err(|e| e.to_string())?
        .accounts
        .into_iter()
        .map(|(plan, record)| (plan.to_string(), record))
        .collect();
    for plan in 0..PLANS {
        let name = format!("p{plan}");
        let charged: i64 = settled.iter().filter(|(bid, _)| **bid % PLANS == plan).map(|(_, price)| price).sum();
        let record = records.get(&name).cloned().unwrap_or_default();
        record.audit().map_err(|e| e.to_string())?;
        if record.charged().0 != charged || record.late_over != 0 {
            return Err(format!("{name}: {record:?}, but its charges are {charged}"));
        }
        if acked.budgets.get(&name).is_some_and(|granted| record.granted < *granted) {
            return Err(format!("{name}: the budget was {:?}, now {}", acked.budgets.get(&name), record.granted));
        }
    }
    Ok(())
}

fn verify_events(dir: &Path, acked: &Acked) -> Result<(), String> {
    let log = Arc::new(EventLog::open(&dir.join("events"), log_options()).map_err(|e| e.to_string())?);
    let mut logged = HashSet::new();
    let mut twice = 0;
    log.replay(1, &mut |_, kind, body| {
        assert_eq!(kind, RecordKind::USER_EVENT);
        let event: UserEvent = serde_json::from_slice(body).unwrap();
        twice += u32::from(!logged.insert(event.item.0.unsigned_abs()));
        true
    })
    .map_err(|e| e.to_string())?;
    let store = UserStore::open(dir, store_options(), log, Arc::new(SystemClock)).map_err(|e| e.to_string())?;
    let mut stored = HashSet::new();
    for user in 0..USERS {
        let history = wait(store.load(&Id::from(format!("u{user}").as_str()))).map_err(|e| e.to_string())?;
        twice += history.items.iter().map(|item| u32::from(!stored.insert(item.0.unsigned_abs()))).sum::<u32>();
        if !history.is_sound() {
            return Err(format!("the history of u{user} is out of order"));
        }
    }
    if twice > 0 {
        return Err(format!("{twice} events are there twice"));
    }
    if stored != logged {
        return Err(format!("{} events in histories, {} in the log", stored.len(), logged.len()));
    }
    match acked.events.iter().find(|number| !stored.contains(number)) {
        Some(number) => Err(format!("event {number} was acknowledged and is gone")),
        None => Ok(()),
    }
}

/// Lets a child run until `delay` after it began (or after it serves), kills it, and takes its acknowledgements.
fn run_and_kill(mut child: Child, delay: Duration, from_ready: bool, acked: &Arc<Mutex<Acked>>) -> bool {
    let output = BufReader::new(child.stdout.take().unwrap());
    let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
    let taker = {
        let acked = Arc::clone(acked);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if acked.lock().unwrap().take(&line) {
                    let _parent_waits_no_longer = ready.try_send(());
                }
            }
        })
    };
    if from_ready {
        is_ready.recv_timeout(Duration::from_secs(20)).expect("the child did not recover");
    }
    std::thread::sleep(delay);
    child.kill().unwrap();
    child.wait().unwrap();
    taker.join().unwrap();
    from_ready || is_ready.try_recv().is_ok()
}

#[test]
fn kill_9_at_any_moment_loses_nothing_acknowledged() {
    let seconds = std::env::var("LONGBOW_CRASH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(8.0);
    let (dir, acked) = (tempfile::tempdir().unwrap(), Arc::new(Mutex::new(Acked::default())));
    let mut random = StdRng::seed_from_u64(7);
    let (begun, mut cycles, mut in_recovery) = (Instant::now(), 0u64, 0);
    while begun.elapsed().as_secs_f64() < seconds {
        let early = random.random_range(0..3) == 0;
        let delay = Duration::from_micros(random.random_range(0..if early { 15_000 } else { 40_000 }));
        let process = child(dir.path(), cycles * 10_000).spawn().unwrap();
        in_recovery += u32::from(!run_and_kill(process, delay, !early, &acked));
        verify(dir.path(), &acked.lock().unwrap()).unwrap_or_else(|fault| panic!("cycle {cycles}: {fault}"));
        cycles += 1;
    }
    let acked = acked.lock().unwrap();
    println!("{cycles} kills, {in_recovery} of them before the child served; {} acknowledgements", acked.len());
    assert!(cycles >= 5 && acked.len() > 100, "{cycles} cycles, {} acknowledgements", acked.len());
}
