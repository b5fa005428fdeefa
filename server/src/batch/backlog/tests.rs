use super::*;
use crate::batch::cost::Line;
use proptest::prelude::*;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A last row is 1 ms, a candidate 1 ms, an appended row 1 ms; nothing else costs.
fn backlog(share: f64) -> Backlog {
    let ladder = LadderLimits { full_share: share, recent_share: share, ..LadderLimits::default() };
    let mut backlog = Backlog::new(ladder, Duration::ZERO);
    backlog.learn(CostModel { encode: Line::new(0.0, 1.0, 0.0), score: Line::new(0.0, 1.0, 0.0) });
    backlog
}

fn claim(now: Instant, candidates: usize, encode_ms: u64, score_ms: u64) -> Claim {
    Claim { candidates, encode_by: now + ms(encode_ms), score_by: now + ms(score_ms) }
}

#[test]
fn what_fits_is_promised_and_the_next_is_refused_at_once() {
    let (mut backlog, now) = (backlog(1.0), Instant::now());
    // 1 ms and 9 ms each: ten of them are what 100 ms hold.
    let same = claim(now, 9, 60, 100);
    for _ in 0..10 {
        backlog.admit(&same, 0, now).unwrap();
    }
    assert_eq!(backlog.admit(&same, 0, now), Err(NoPlace::Crowded));
    assert_eq!(backlog.admit(&claim(now, 9, 5, 9), 0, now), Err(NoPlace::DeadlineTooNear), "10 ms in 9, even alone");
    assert_eq!(backlog.promised(), 20, "a refusal leaves nothing behind");
    // Later deadlines have room behind them: 50 ms more.
    for _ in 0..5 {
        backlog.admit(&claim(now, 9, 110, 150), 0, now).unwrap();
    }
    assert_eq!(backlog.admit(&claim(now, 9, 110, 150), 0, now), Err(NoPlace::Crowded));
}

#[test]
fn a_near_deadline_goes_first_where_those_behind_it_can_wait() {
    let (mut backlog, now) = (backlog(1.0), Instant::now());
    for _ in 0..15 {
        backlog.admit(&claim(now, 9, 120, 200), 0, now).unwrap();
    }
    // 150 of 200 ms are promised: a caller of 30 ms is not behind them.
    for _ in 0..2 {
        backlog.admit(&claim(now, 9, 18, 30), 0, now).unwrap();
    }
    assert_eq!(backlog.admit(&claim(now, 19, 25, 30), 0, now), Err(NoPlace::Crowded), "20 and 20 in 30");
    // Behind those two there are 40 ms before the deadline of 60 ms, and the callers of 200 ms can give 30 of them.
    for _ in 0..3 {
        backlog.admit(&claim(now, 9, 50, 60), 0, now).unwrap();
    }
    assert_eq!(
        backlog.admit(&claim(now, 9, 50, 90), 0, now),
        Err(NoPlace::Crowded),
        "those of 200 ms have no more to give"
    );
}

#[test]
fn a_promise_that_is_lost_holds_nobody_up_and_what_runs_does() {
    let (mut backlog, now) = (backlog(1.0), Instant::now());
    backlog.admit(&claim(now, 50, 50, 60), 0, now).unwrap();
    // Nothing ran for 40 ms: it needs 51 and has 20.
    let later = now + ms(40);
    assert!(backlog.admit(&claim(later, 4, 5, 10), 0, later).is_ok());
    backlog.busy_until = Some(later + ms(6));
    assert_eq!(backlog.admit(&claim(later, 4, 5, 10), 0, later), Err(NoPlace::Crowded));
}

#[test]
fn half_the_room_gives_half_the_history() {
    let now = Instant::now();
    // A candidate costs 1 us for each event that it attends to.
    let mut backlog = backlog(1.0);
    backlog.learn(CostModel { encode: Line::new(0.0, 0.01, 0.0), score: Line::new(0.0, 0.0, 1e-3) });
    let long = Claim { candidates: 100, encode_by: now + ms(60), score_by: now + ms(100) };
    let promised = |backlog: &Backlog, id| {
        let takes = backlog.promises[&(long.score_by, id, Part::Score)];
        usize::try_from(takes.as_micros() / 100).unwrap() - 1
    };
    let first = backlog.admit(&long, 500, now).unwrap();
    assert_eq!(promised(&backlog, first), 500, "50 ms of 100");
    let second = backlog.admit(&long, 700, now).unwrap();
    let shorter = promised(&backlog, second);
    assert!((400..500).contains(&shorter), "{shorter} events in what is left of 50 ms");
    assert_eq!(backlog.room(u64::MAX, &long, now).whole.as_millis(), 0);
    assert_eq!(backlog.admit(&long, 700, now), Err(NoPlace::Crowded));
}

#[test]
fn a_ticket_gives_its_place_back() {
    let shared = Arc::new(Mutex::new(backlog(1.0)));
    let now = Instant::now();
    let whole = claim(now, 99, 60, 100);
    let ticket = Ticket::take(&shared, whole, now).unwrap();
    assert_eq!(Ticket::take(&shared, whole, now).unwrap_err(), NoPlace::Crowded);
    begin(&shared, [(&ticket, false)].into_iter(), now + ms(1));
    assert_eq!(shared.lock().promised(), 1, "its scores");
    drop(ticket);
    assert_eq!(shared.lock().promised(), 0);
    end(&shared, backlog(1.0).cost);
    assert!(Ticket::take(&shared, whole, now).is_ok());
}

/// A part that the naive device of the property below has before it.
#[derive(Clone, Copy)]
struct Waiting {
    due: Instant,
    id: u64,
    part: Part,
    takes: Duration,
}

proptest! {
    /// On a device that takes what was predicted, runs the earliest deadline first and is never idle while something waits,
    /// whoever was admitted is served in time, whatever else comes.
    #[test]
    fn every_promise_is_kept(
        asks in prop::collection::vec((0u64..12, 1usize..25, 5u64..60, 0u64..80), 1..80),
    ) {
        let start = Instant::now();
        let (mut backlog, mut waiting) = (backlog(1.0), Vec::<Waiting>::new());
        let (mut now, mut arrives, mut kept) = (start, start, 0);
        let mut asks = asks.into_iter().peekable();
        while asks.peek().is_some() || !waiting.is_empty() {
            // Everybody who arrives until the device is free asks at that moment.
            while let Some(&(gap, candidates, encode_ms, more_ms)) = asks.peek() {
                let at = arrives + ms(gap);
                if at > now && !waiting.is_empty() {
                    break;
                }
                (arrives, now) = (at, now.max(at));
                asks.next();
                let claim = claim(at, candidates, encode_ms, encode_ms + more_ms);
                if let Ok(id) = backlog.admit(&claim, 0, at) {
                    let (due, takes) = (claim.encode_by, ms(1));
                    waiting.push(Waiting { due, id, part: Part::Encode, takes });
                    let (due, takes) = (claim.score_by, ms(candidates as u64));
                    waiting.push(Waiting { due, id, part: Part::Score, takes });
                }
            }
            waiting.sort_by_key(|part| (std::cmp::Reverse(part.due), std::cmp::Reverse((part.id, part.part))));
            let Some(next) = waiting.pop() else { continue };
            backlog.promises.remove(&(next.due, next.id, next.part));
            let done = now + next.takes;
            prop_assert!(done <= next.due, "late by {:?}", done - next.due);
            kept += 1;
            backlog.busy_until = Some(done);
            now = done;
        }
        prop_assert!(kept > 0 || backlog.promised() == 0);
    }
}
