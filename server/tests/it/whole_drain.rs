//! Leaving under load: not ready first, then every request that was taken is answered in full, then the end, with code 0.

use crate::process::{Link, Lost, Process};
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// What one client saw.
#[derive(Default)]
struct Seen {
    answered: usize,
    /// Answered although the server had said that it is not ready.
    answered_late: usize,
    /// Answers that asked for a new connection.
    told_to_go: usize,
    unanswered: Vec<String>,
    broken: Vec<String>,
    refused: bool,
}

/// Asks until nothing listens any more; with `fresh`, on a new connection each time.
fn client(address: SocketAddr, number: usize, fresh: bool, not_ready: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut link = Link::new(address);
    for turn in 0.. {
        if fresh {
            link = Link::new(address);
        }
        let late = not_ready.load(SeqCst);
        let user = format!("user-{:05}", (number * 31 + turn) % 100 + 1);
        let outcome = match turn % 3 {
            0 => {
                let event = json!({"id": format!("d{number}-{turn}"), "user": user, "item": "7", "action": "view"});
                link.ask("POST", "/v1/events", &event.to_string())
            }
            1 => link.ask("POST", "/v1/rank", &json!({"user": user, "k": 5, "deadline_ms": 2000}).to_string()),
            _ => {
                let request = json!({"id": format!("d{number}-{turn}"), "user": {"id": user}, "tmax": 2000,
                    "imp": [{"id": "1", "banner": {"w": 300, "h": 250}}], "site": {"id": "s"}});
                link.ask("POST", "/openrtb2/bid", &request.to_string())
            }
        };
        match outcome {
            Ok(reply) => {
                assert!(matches!(reply.status, 200 | 204), "{reply:?}");
                seen.answered += 1;
                seen.answered_late += usize::from(late);
                seen.told_to_go += usize::from(late && reply.closes);
            }
            Err(Lost::NotConnected) => {
                seen.refused = true;
                return seen;
            }
            Err(Lost::Unanswered(error)) => seen.unanswered.push(format!("turn {turn}: {error}")),
            Err(Lost::Broken(what)) => seen.broken.push(format!("turn {turn}: {what}")),
        }
    }
    seen
}

#[test]
fn a_drain_under_load_breaks_no_answer() {
    let home = tempfile::tempdir().unwrap();
    let server = Process::start("demo", &home.path().join("data"), &["drain.delay_ms=700"]);
    let (address, admin) = (server.http, server.admin);
    let not_ready = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..6)
        .map(|number| {
            let not_ready = Arc::clone(&not_ready);
            std::thread::spawn(move || client(address, number, number % 2 == 0, &not_ready))
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    let mut probe = Link::new(admin);
    assert_eq!(probe.call("GET", "/readyz", "").status, 200);
    let began = Instant::now();
    server.terminate();
    let leaving = loop {
        let reply = Link::new(admin).call("GET", "/readyz", "");
        if reply.status == 503 {
            break reply.json();
        }
        assert!(began.elapsed() < Duration::from_secs(5), "still ready");
    };
    assert_eq!(leaving["phase"], "draining", "{leaving}");
    not_ready.store(true, SeqCst);
    let seen: Vec<Seen> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    assert_eq!(server.wait().code(), Some(0));

    let sum = |of: fn(&Seen) -> usize| seen.iter().map(of).sum::<usize>();
    let answered = sum(|s| s.answered);
    println!(
        "{answered} answers, {} of them after `not ready`, gone after {:?}",
        sum(|s| s.answered_late),
        began.elapsed()
    );
    let broken: Vec<_> = seen.iter().flat_map(|s| &s.broken).collect();
    assert!(broken.is_empty(), "{broken:?}");
    assert!(answered > 50, "{answered}");
    assert!(sum(|s| s.answered_late) > 10, "traffic is served after `not ready`");
    assert_eq!(sum(|s| s.answered_late), sum(|s| s.told_to_go), "and sent elsewhere");
    assert!(seen.iter().all(|s| s.refused));
    // Between its last accept and the close of its socket a server cannot see who comes; that is a few microseconds.
    let unanswered: Vec<_> = seen.iter().flat_map(|s| &s.unanswered).collect();
    assert!(unanswered.len() <= 1, "{unanswered:?}");
}
