//! Promises of a device behind its handle: who comes while its time is taken is refused before it looks, or gets less.

use crate::batch_spy::*;
use longbow::batch::{Claim, Degrade, DeviceError, DeviceHandle, EncodeRequest, ScoreRequest, Ticket};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

/// Claims by halves until there is no room. Nothing is done for them. Gives the number of candidates that fill it, too.
fn take_room(handle: &DeviceHandle, by: Instant) -> (Vec<Arc<Ticket>>, usize) {
    let (mut tickets, mut candidates, mut taken) = (Vec::new(), 1 << 36, 0);
    while candidates > 0 {
        match handle.claim(Claim { candidates, encode_by: by, score_by: by }) {
            Ok(ticket) => {
                tickets.push(ticket);
                taken += candidates;
            }
            Err(DeviceError::Overloaded | DeviceError::DeadlineTooNear) => candidates /= 2,
            Err(error) => panic!("{error}"),
        }
    }
    (tickets, taken)
}

fn claim(by: Instant) -> Claim {
    Claim { candidates: 10, encode_by: by, score_by: by }
}

#[tokio::test]
async fn while_its_time_is_promised_a_stuck_device_refuses_without_looking() {
    let bench = bench().await;
    let stuck = occupy(&bench);
    occupied(&bench).await;
    let by = within(EVER).0;
    let early = bench.handle.claim(claim(by)).unwrap();
    let (tickets, _) = take_room(&bench.handle, by);
    let refusals = bench.handle.stats().overloaded.get();
    assert_eq!(bench.handle.claim(claim(by)).unwrap_err(), DeviceError::Overloaded);
    // Whoever has a place finds out as soon as the history is known.
    let long = EncodeRequest { ticket: Some(early), ..ask(1, &history(3, 5_000), EVER) };
    let mut asked = pin!(bench.handle.encode(long));
    assert!(matches!(start(asked.as_mut()), Poll::Ready(Err(DeviceError::Overloaded))), "at once");
    assert_eq!(bench.handle.stats().overloaded.get(), refusals + 2);
    assert_eq!(bench.handle.stats().waiting.get(), 1, "nobody waits but the one it is stuck on");
    drop(tickets);
    assert!(bench.handle.claim(claim(by)).is_ok());
    bench.watch.let_go();
    stuck.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_cold_user_who_does_not_fit_beside_others_gets_a_shorter_history_whatever_the_deadline() {
    // 10,000 rows take three seconds at least, far less than the deadline.
    let mut options = quick();
    options.ladder.recent_len_max = 64;
    let bench = bench_with(options, Duration::from_micros(300)).await;
    let by = within(EVER).0;
    let ticket = bench.handle.claim(claim(by)).unwrap();
    let (all, taken) = take_room(&bench.handle, by);
    drop(all);
    // Four fifths of the deadline are promised at most: a 600th of that is 0.8 seconds of room.
    let most = Claim { candidates: taken / 600 * 599, ..claim(by) };
    let others = bench.handle.claim(most).unwrap();
    let request = EncodeRequest { ticket: Some(Arc::clone(&ticket)), ..ask(1, &history(5, HISTORY_MAX), EVER) };
    let reply = bench.handle.encode(request).await.unwrap();
    assert_eq!(reply.degrade, Degrade::Recent);
    assert_eq!(reply.encoded.events(), 64);
    let scores =
        ScoreRequest { encoded: reply.encoded, items: vec![1, 2, 3], deadline: within(EVER), ticket: Some(ticket) };
    assert_eq!(bench.handle.score(scores).await.unwrap().scores.len(), 3);
    drop(others);
}
