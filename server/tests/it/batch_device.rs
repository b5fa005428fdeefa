//! The device behind its handle: a real encoder with a small seeded model, watched and held up by a [`Spy`].

use crate::batch_spy::*;
use longbow::batch::plan::PlanLimits;
use longbow::batch::{
    Degrade, Device, DeviceError, DeviceOptions, EncodeRequest, Health, ScoreRequest, Urgency, UserWindow,
};
use longbow_kernels::Engine;
use longbow_model::{CpuEncoder, ItemTable, Model, Seed};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::task::Poll;
use std::time::Duration;

#[tokio::test]
async fn neighbours_do_not_change_a_score_by_one_bit() {
    let bench = bench().await;
    let candidates: Vec<u32> = (1..=40).collect();
    let window = history(3, 300);
    let score = |encoded| {
        let request = ScoreRequest { encoded, items: candidates.clone(), deadline: within(EVER), ticket: None };
        let handle = bench.handle.clone();
        async move { handle.score(request).await.unwrap().scores }
    };
    let alone = bench.handle.encode(ask(1, &window, EVER)).await.unwrap();
    let alone_scores = score(Arc::clone(&alone.encoded)).await;

    // The same history under another user, so that nothing of it is cached, among others of all lengths.
    let stuck = occupy(&bench);
    occupied(&bench).await;
    let windows: Vec<_> = (0..12).map(|i| history(20 + i, 1 + 29 * i as usize)).collect();
    let mut others: Vec<_> =
        windows.iter().enumerate().map(|(i, w)| Box::pin(bench.handle.encode(ask(100 + i as u128, w, EVER)))).collect();
    let mut ours = Box::pin(bench.handle.encode(ask(2, &window, EVER)));
    for other in &mut others {
        assert!(start(other.as_mut()).is_pending());
    }
    assert!(start(ours.as_mut()).is_pending());
    bench.watch.let_go();
    let ours = ours.await.unwrap();
    for other in others {
        other.await.unwrap();
    }
    stuck.await.unwrap().unwrap();
    assert!(bench.watch.calls().iter().any(|call| matches!(call, Call::Finish(jobs) if jobs.len() > 3)), "no batch");

    assert_eq!(alone.encoded.query(), ours.encoded.query());
    let mut neighbour = pin!(score(Arc::clone(&alone.encoded)));
    // A device that is quicker than this thread may have answered already.
    let waits = start(neighbour.as_mut()).is_pending();
    assert_eq!(score(ours.encoded).await.probs, alone_scores.probs);
    if waits {
        neighbour.await;
    }
}

#[tokio::test]
async fn a_cold_long_history_takes_the_ladder_and_is_warm_afterwards() {
    // 10,000 rows take a second at least, whatever this machine is.
    let bench = bench_with(quick(), Duration::from_micros(100)).await;
    let window = history(5, HISTORY_MAX);
    let cold = bench.handle.encode(ask(1, &window, 400)).await.unwrap();
    assert_eq!(cold.degrade, Degrade::Recent);
    assert!(cold.encoded.events() < HISTORY_MAX && cold.encoded.events() >= 8, "{}", cold.encoded.events());
    until("the whole history in the background", || bench.handle.stats().refreshed.get() == 1).await;
    bench.watch.forget();
    let warm = bench.handle.encode(ask(1, &window, 400)).await.unwrap();
    assert_eq!((warm.degrade, warm.rows_reused, warm.rows_computed), (Degrade::Full, HISTORY_MAX - 1, 1));
    assert_eq!(bench.watch.calls(), [Call::Finish(vec![HISTORY_MAX])]);
    assert_eq!(bench.handle.stats().replies(Degrade::Recent).get(), 1);

    // Many new events under a deadline too short for them: the state without them.
    let mut grown = UserWindow::clone(&window);
    let keep = HISTORY_MAX - 800;
    bench.handle.encode(ask(2, &Arc::new(part(&grown, keep)), EVER)).await.unwrap();
    grown = part(&grown, HISTORY_MAX);
    let stale = bench.handle.encode(ask(2, &Arc::new(grown), 70)).await.unwrap();
    assert_eq!((stale.degrade, stale.encoded.events(), stale.rows_computed), (Degrade::Stale, keep, 1));
    until("the new events in the background", || bench.handle.stats().refreshed.get() == 2).await;
}

fn part(window: &UserWindow, len: usize) -> UserWindow {
    UserWindow {
        items: window.items[..len].to_vec(),
        actions: window.actions[..len].to_vec(),
        times: window.times[..len].to_vec(),
    }
}

#[tokio::test]
async fn a_full_encode_in_slices_lets_other_requests_pass() {
    let bench = bench_with(quick(), Duration::from_micros(10)).await;
    let (long, short) = (history(5, HISTORY_MAX), history(6, 20));
    let mut slow = pin!(bench.handle.encode(ask(1, &long, EVER)));
    assert!(start(slow.as_mut()).is_pending());
    until("the first slice", || !bench.watch.calls().is_empty()).await;
    bench.handle.encode(ask(2, &short, EVER)).await.unwrap();
    let at_reply = bench.watch.calls();
    assert!(!at_reply.contains(&Call::Finish(vec![HISTORY_MAX])), "the short request waited for the whole encode");
    let reply = slow.await.unwrap();
    assert_eq!((reply.degrade, reply.rows_computed), (Degrade::Full, HISTORY_MAX));
    let slices = bench.watch.calls().iter().filter(|call| matches!(call, Call::Advance(rows) if rows[0] > 30)).count();
    assert!(slices > 3, "{slices} slices");
}

#[tokio::test]
async fn background_slices_are_short_while_requests_come_and_whole_while_none_do() {
    let plan = PlanLimits { quiet: Duration::from_secs(3_600), ..PlanLimits::default() };
    let bench = bench_with(DeviceOptions { plan, ..quick() }, Duration::from_micros(100)).await;
    let mut rows = Vec::new();
    for done in 1..=2 {
        bench.watch.forget();
        assert!(bench.handle.refresh(100 + u128::from(done), history(5, 1_500), Urgency::Events));
        until("the background encode", || bench.handle.stats().refreshed.get() == done).await;
        let most = |call: &Call| if let Call::Advance(rows) = call { rows[0] } else { 0 };
        rows.push(bench.watch.calls().iter().map(most).max().unwrap());
        bench.handle.encode(ask(1, &history(6, 20), EVER)).await.unwrap();
    }
    // Planned as 6 ms and 1 ms by one cost model.
    assert!(rows[1] * 2 < rows[0], "{rows:?} rows in the longest slice before and after a request");
}

#[tokio::test]
async fn background_work_holds_back_for_the_scores_of_a_request_that_was_encoded() {
    let plan = PlanLimits { score_wait: Duration::from_secs(3_600), ..PlanLimits::default() };
    let bench = bench_with(DeviceOptions { plan, ..quick() }, Duration::from_micros(100)).await;
    let stuck = occupy(&bench);
    occupied(&bench).await;
    assert!(bench.handle.refresh(2, history(5, 1_500), Urgency::Events));
    let window = history(6, 20);
    let mut asked = pin!(bench.handle.encode(ask(1, &window, EVER)));
    assert!(start(asked.as_mut()).is_pending());
    bench.watch.forget();
    bench.watch.let_go();
    let encoded = [stuck.await.unwrap().unwrap().encoded, asked.await.unwrap().encoded];
    for encoded in encoded {
        let request = ScoreRequest { encoded, items: vec![1, 2, 3], deadline: within(EVER), ticket: None };
        bench.handle.score(request).await.unwrap();
    }
    let calls = bench.watch.calls();
    let last = calls.iter().rposition(|call| matches!(call, Call::Score(_))).unwrap();
    let background = |call: &Call| matches!(call, Call::Advance(rows) if rows[0] != 3 && rows[0] != 19);
    assert!(!calls[..last].iter().any(background), "background work before the scores: {calls:?}");
    until("the background encode", || bench.handle.stats().refreshed.get() == 1).await;
}

#[tokio::test]
async fn dropped_futures_free_their_place_and_their_work() {
    let bench = bench().await;
    let stuck = occupy(&bench);
    occupied(&bench).await;
    let seen = bench.watch.calls().len();
    let window = history(4, 50);
    let mut abandoned: Vec<_> = (0..20).map(|i| Box::pin(bench.handle.encode(ask(i, &window, EVER)))).collect();
    for future in &mut abandoned {
        assert!(start(future.as_mut()).is_pending());
    }
    assert_eq!(bench.handle.stats().waiting.get(), 21);
    drop(abandoned);
    assert_eq!(bench.handle.stats().waiting.get(), 1, "places are free before the device looks");
    bench.watch.let_go();
    stuck.await.unwrap().unwrap();
    bench.handle.encode(ask(77, &window, EVER)).await.unwrap();
    assert_eq!(bench.handle.stats().cancelled.get(), 20);
    let jobs: usize = bench.watch.calls()[seen..]
        .iter()
        .map(|call| match call {
            Call::Finish(jobs) => jobs.len(),
            _ => 0,
        })
        .sum();
    assert_eq!(jobs, 2, "the one that was stuck and the one after the abandoned");
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_the_deadline_is_kept_by_a_timer() {
    let plan = PlanLimits { requests_max: 4, ..PlanLimits::default() };
    let bench = bench_with(DeviceOptions { plan, ..quick() }, Duration::ZERO).await;
    let stuck = occupy(&bench);
    occupied(&bench).await;
    let calls = bench.watch.calls().len();
    let window = history(4, 50);
    let mut waiting: Vec<_> = (0..3).map(|i| Box::pin(bench.handle.encode(ask(i, &window, 20)))).collect();
    for future in &mut waiting {
        assert!(start(future.as_mut()).is_pending());
    }
    let mut refused = pin!(bench.handle.encode(ask(8, &window, EVER)));
    match start(refused.as_mut()) {
        Poll::Ready(Err(error)) => assert_eq!(error, DeviceError::QueueFull),
        other => panic!("{other:?}"),
    }
    // The device is still stuck: only a timer of the handle's own can answer.
    for future in waiting {
        assert_eq!(future.await.unwrap_err(), DeviceError::Expired);
    }
    assert_eq!(bench.handle.stats().expired.get(), 3);
    bench.watch.let_go();
    stuck.await.unwrap().unwrap();
    bench.handle.encode(ask(77, &history(8, 3), EVER)).await.unwrap();
    let finished: Vec<usize> = bench.watch.calls()[calls..]
        .iter()
        .flat_map(|call| if let Call::Finish(jobs) = call { jobs.clone() } else { Vec::new() })
        .collect();
    assert_eq!(finished, [4, 3], "no expired history of 50 events reached the encoder for a reply");
    assert_eq!(bench.handle.stats().cancelled.get(), 0, "they expired, nobody went away");
}

#[tokio::test]
async fn a_panic_turns_readiness_off_and_answers_everybody() {
    let bench = bench().await;
    bench.watch.panics.store(true, SeqCst);
    let error = bench.handle.encode(ask(1, &history(1, 5), EVER)).await.unwrap_err();
    assert!(matches!(&error, DeviceError::Failed(why) if why.contains("as the test asked")), "{error}");
    until("the device to be lost", || matches!(bench.handle.health(), Health::Failed(_))).await;
    assert!(matches!(bench.handle.ready().await, Err(DeviceError::Failed(_))));
    let mut later = pin!(bench.handle.encode(ask(1, &history(1, 5), EVER)));
    assert!(matches!(start(later.as_mut()), Poll::Ready(Err(DeviceError::Failed(_)))), "at once");
}

#[tokio::test]
async fn one_wrong_request_does_not_spoil_its_batch() {
    let bench = bench().await;
    let stuck = occupy(&bench);
    occupied(&bench).await;
    let mut wrong = UserWindow::clone(&history(4, 30));
    wrong.items[7] = 65;
    let wrong = Arc::new(wrong);
    let right = history(5, 30);
    let mut bad = pin!(bench.handle.encode(ask(1, &wrong, EVER)));
    let mut good = pin!(bench.handle.encode(ask(2, &right, EVER)));
    assert!(start(bad.as_mut()).is_pending() && start(good.as_mut()).is_pending());
    bench.watch.let_go();
    assert!(matches!(bad.await, Err(DeviceError::Invalid(why)) if why.contains("65")));
    good.await.unwrap();
    stuck.await.unwrap().unwrap();
    assert_eq!(bench.handle.health(), Health::Ready);

    // An item appended since then is known.
    let mut table = ItemTable::clone(&bench.items.load());
    assert_eq!(table.append(&[0.5; 8]).unwrap(), 65);
    bench.items.store(Arc::new(table));
    bench.handle.encode(ask(1, &wrong, EVER)).await.unwrap();
}

#[tokio::test]
async fn a_user_twice_in_one_batch_is_encoded_once() {
    let bench = bench().await;
    let stuck = occupy(&bench);
    occupied(&bench).await;
    let window = history(4, 200);
    let mut first = pin!(bench.handle.encode(ask(1, &window, EVER)));
    let mut second = pin!(bench.handle.encode(ask(1, &window, EVER)));
    assert!(start(first.as_mut()).is_pending() && start(second.as_mut()).is_pending());
    bench.watch.let_go();
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    stuck.await.unwrap().unwrap();
    assert_eq!((first.rows_computed, second.rows_computed), (200, 1));
    assert_eq!(first.encoded.query(), second.encoded.query());
}

#[tokio::test]
async fn refreshes_make_a_user_warm_and_inline_histories_leave_nothing() {
    let bench = bench().await;
    let window = history(4, 500);
    assert!(bench.handle.refresh(1, Arc::clone(&window), Urgency::Events));
    until("the refresh", || bench.handle.stats().refreshed.get() == 1).await;
    let warm = bench.handle.encode(ask(1, &window, EVER)).await.unwrap();
    assert_eq!((warm.rows_reused, warm.rows_computed), (499, 1));
    let users = bench.handle.stats().cache_users.get();
    let inline = EncodeRequest { user: None, ..ask(0, &window, EVER) };
    let reply = bench.handle.encode(inline).await.unwrap();
    assert_eq!((reply.degrade, reply.rows_computed), (Degrade::Full, 500));
    assert_eq!(reply.encoded.query(), warm.encoded.query(), "the cached state is exact");
    assert_eq!(bench.handle.stats().cache_users.get(), users);
    let empty = bench.handle.encode(ask(3, &Arc::default(), EVER)).await.unwrap();
    assert_eq!(empty.encoded.query(), None);
    let scored = ScoreRequest { encoded: empty.encoded, items: vec![1, 2], deadline: within(EVER), ticket: None };
    assert_eq!(bench.handle.score(scored).await.unwrap().scores.len(), 2);
}

#[tokio::test]
async fn a_forgotten_user_leaves_no_state_and_no_waiting_work() {
    let bench = bench().await;
    let window = history(4, 500);
    for user in [1, 2] {
        assert_eq!(bench.handle.encode(ask(user, &window, EVER)).await.unwrap().rows_reused, 0);
    }
    assert!(bench.handle.forget(1));
    until("the state to go", || bench.handle.stats().cache_users.get() == 1).await;
    assert_eq!(bench.handle.encode(ask(2, &window, EVER)).await.unwrap().rows_reused, 499);
    assert_eq!(bench.handle.encode(ask(1, &window, EVER)).await.unwrap().rows_reused, 0);
    // Work that waits while the device is busy.
    let bench = self::bench().await;
    let stuck = occupy(&bench);
    occupied(&bench).await;
    assert!(bench.handle.refresh(3, window, Urgency::Events) && bench.handle.forget(3));
    bench.watch.let_go();
    stuck.await.unwrap().unwrap();
    until("the device to be idle", || bench.handle.stats().background_waiting.get() == 0).await;
    assert_eq!((bench.handle.stats().cache_users.get(), bench.handle.stats().refreshed.get()), (1, 0));
}

#[tokio::test]
async fn a_state_larger_than_the_cache_still_gives_a_whole_encode() {
    let options = DeviceOptions { cache_bytes_max: 10_000, ..quick() };
    let bench = bench_with(options, Duration::from_micros(10)).await;
    let window = history(4, 4_000);
    let reply = bench.handle.encode(ask(1, &window, EVER)).await.unwrap();
    assert_eq!((reply.degrade, reply.encoded.events()), (Degrade::Full, 4_000));
    assert!(bench.handle.refresh(1, window, Urgency::Events));
    until("the refresh to be given up", || bench.handle.stats().refresh_abandoned.get() == 1).await;
}

#[tokio::test]
async fn stopping_answers_those_who_wait() {
    let mut bench = bench().await;
    let stuck = occupy(&bench);
    occupied(&bench).await;
    let window = history(4, 200);
    let handle = bench.handle.clone();
    let mut waiting = pin!(handle.encode(ask(1, &window, EVER)));
    assert!(start(waiting.as_mut()).is_pending());
    let (idle, _) = Device::start(
        Box::new(Spy {
            inner: CpuEncoder::new(
                Arc::new(Model::seeded(config(), &Seed { seed: 1, content_dim: None, head_hidden: 4 }).unwrap()),
                Arc::new(Engine::new(1, None).unwrap()),
            ),
            watch: Arc::default(),
        }),
        Arc::clone(&bench.items),
        quick(),
        Arc::default(),
    )
    .unwrap();
    // Stopped while it is stuck, so that it finds the stop before it takes in the request that waits.
    let device = std::mem::replace(&mut bench._device, idle);
    let stopping = std::thread::spawn(move || drop(device));
    tokio::time::sleep(Duration::from_millis(50)).await;
    bench.watch.let_go();
    stopping.join().unwrap();
    stuck.await.unwrap().ok();
    assert_eq!(waiting.await.unwrap_err(), DeviceError::Cancelled);
    assert_eq!(handle.encode(ask(1, &window, EVER)).await.unwrap_err(), DeviceError::Cancelled);
}

#[tokio::test]
async fn an_encode_whose_last_row_alone_outlasts_a_slice_ends() {
    // So on a device whose calls have a high fixed price: nothing is short.
    let mut options = quick();
    options.plan.slice = Duration::from_nanos(1);
    let bench = bench_with(options, Duration::ZERO).await;
    for len in [1, 3] {
        let reply = bench.handle.encode(ask(1, &history(5, len), 20_000)).await.unwrap();
        assert_eq!(reply.degrade, Degrade::Full);
    }
}
