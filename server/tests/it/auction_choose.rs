//! Creative choice: Thompson sampling with fixed seeds.

use crate::catalog_kit::{banner, handle, item, plan};
use longbow::auction::choose::{Ask, Chooser, ChooserState, Context, Outcome, Prior, Seen, Sight};
use longbow::catalog::{Catalog, Change};
use longbow::plans::Format;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;

fn catalog(creatives: usize) -> Arc<Catalog> {
    let handle = handle();
    let mut changes = vec![Change::Item(item("a", &[])), Change::Plan(plan("p", &["a"]))];
    changes.extend((0..creatives).map(|n| Change::Creative(banner(&format!("c{n}"), "p", None))));
    let mut video = banner("video", "p", None);
    video.format = Format::Video {
        w: 640,
        h: 360,
        duration_s: 15,
        mime: "video/mp4".into(),
        media_url: "https://v.example/v.mp4".into(),
    };
    changes.push(Change::Creative(video));
    handle.apply(changes).unwrap();
    handle.snapshot()
}

/// Shows creatives of these click rates `rounds` times; gives how often each was shown in the last quarter, and clicks.
fn play(rates: &[f64], rounds: u32, seed: u64) -> (Vec<u32>, u32) {
    let catalog = catalog(rates.len());
    let chooser = Chooser::default();
    let mut rng = StdRng::seed_from_u64(seed);
    let slots: Vec<u32> = (0u32..).take(rates.len()).collect();
    let (mut late, mut clicks) = (vec![0; rates.len()], 0);
    for round in 0..rounds {
        let chosen = chooser.choose(&catalog, &Ask::default(), slots.iter().copied(), &mut rng).unwrap().creative;
        chooser.record(&catalog, chosen, Outcome::Impression);
        if rng.random_bool(rates[chosen as usize]) {
            chooser.record(&catalog, chosen, Outcome::Click);
            clicks += 1;
        }
        if round >= rounds - rounds / 4 {
            late[chosen as usize] += 1;
        }
    }
    (late, clicks)
}

#[test]
fn the_better_creative_is_found_in_all_but_few_runs() {
    let mut found = 0;
    for seed in 0..20 {
        let (late, _) = play(&[0.02, 0.05, 0.02, 0.03, 0.01], 8_000, seed);
        found += u32::from(late[1] > 1_000); // of 2,000
    }
    // 0.05 against 0.03 over 2,000 impressions each is a difference of 3 deviations. Two runs may still be unlucky.
    assert!(found >= 18, "{found} of 20");
}

#[test]
fn it_earns_more_than_showing_all_alike() {
    let rates = [0.01, 0.01, 0.01, 0.04, 0.02, 0.01, 0.01, 0.02, 0.01, 0.01];
    let (mut ours, rounds) = (0, 10_000);
    for seed in 0..10 {
        ours += play(&rates, rounds, seed).1;
    }
    // Showing all alike brings 1.5% of 100,000 (deviation 38); the best alone 4%. Asked for is half of what lies between:
    // a Beta posterior of each creative alone brings that in this many rounds.
    assert!(ours > 2_750, "{ours}");
}

#[test]
fn same_state_and_seed_same_choice() {
    let catalog = catalog(5);
    let chooser = Chooser::default();
    for n in 0..100u32 {
        chooser.record(&catalog, n % 5, if n % 7 == 0 { Outcome::Click } else { Outcome::Impression });
    }
    chooser.learn(&catalog, 0.0);
    let draw = |chooser: &Chooser, seed| {
        let mut rng = StdRng::seed_from_u64(seed);
        (0..20).map(|_| chooser.choose(&catalog, &Ask::default(), 0..5, &mut rng).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(draw(&chooser, 3), draw(&chooser, 3));
    assert_ne!(draw(&chooser, 3), draw(&chooser, 4));

    let text = serde_json::to_string(&chooser.save(&catalog)).unwrap();
    let restored = Chooser::default();
    restored.restore(&catalog, &serde_json::from_str::<ChooserState>(&text).unwrap());
    for (ours, before) in draw(&restored, 9).iter().zip(draw(&chooser, 9)) {
        assert_eq!(ours.creative, before.creative, "a restart changes no choice");
        assert!((ours.sampled - before.sampled).abs() < 1e-12, "{} {}", ours.sampled, before.sampled);
    }
    assert_eq!(chooser.choose(&catalog, &Ask::default(), [], &mut StdRng::seed_from_u64(1)), None);
}

#[test]
fn forms_share_what_they_know_and_nothing_else() {
    let catalog = catalog(3);
    let video = 3;
    let chooser = Chooser::default();
    let mean = |creative: u32| chooser.expected(catalog.creative(creative).unwrap(), creative).0;
    let fresh = 1.0 / 31.0;
    assert!((mean(2) - fresh).abs() < 0.003, "{}", mean(2));
    for n in 0..2_000 {
        chooser.record(&catalog, n % 2, Outcome::Impression);
        if n % 10 == 0 {
            chooser.record(&catalog, n % 2, Outcome::Click);
        }
    }
    assert!((mean(2) - 0.1).abs() < 0.01, "a new banner starts as an average one: {}", mean(2));
    assert!((mean(video) - fresh).abs() < 0.003, "a video does not: {}", mean(video));
    chooser.decay(0.5);
    assert_eq!(chooser.seen(0).impressions, 500.0);
    // Clicks that come before, or without, their impressions must not break the posterior.
    (0..50).for_each(|_| chooser.record(&catalog, video, Outcome::Click));
    assert!((0.0..=1.0).contains(&mean(video)));
}

#[test]
fn feedback_from_many_threads_is_counted_once_each() {
    let catalog = catalog(3);
    let chooser = Chooser::default();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..5_000).for_each(|n| chooser.record(&catalog, n % 3, Outcome::Impression)));
        }
    });
    let total: f64 = (0..3).map(|creative| chooser.seen(creative).impressions).sum();
    assert_eq!(total, 20_000.0);
}

#[test]
fn feedback_may_come_late_and_in_any_order() {
    // Three features; clicks told with the impression, against clicks told after all impressions.
    let rows = [[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [1.0, 0.3, -0.7], [1.0, -1.0, 0.2]];
    let clicked = |n: usize| n.is_multiple_of(3) || n % 7 == 1;
    let fresh = || Prior::new(vec![0.1, 0.0, 0.0], vec![0.5, 0.2, 0.3]);
    let (mut at_once, mut late) = (fresh(), fresh());
    let noise = 0.2;
    for n in 0..60 {
        at_once.observe(&rows[n % 4], f64::from(u8::from(clicked(n))), noise);
        late.observe(&rows[n % 4], 0.0, noise);
    }
    (0..60).rev().filter(|&n| clicked(n)).for_each(|n| late.credit(&rows[n % 4], 1.0, noise));
    for (a, b) in at_once.mean().iter().zip(late.mean()) {
        assert!((a - b).abs() < 1e-9, "{a} {b}");
    }
    // And both are the solution of the normal equations: gradient of the penalised squares is zero.
    for d in 0..3 {
        let start = [0.1, 0.0, 0.0][d];
        let mut gradient = (at_once.mean()[d] - start) / [0.5, 0.2, 0.3][d];
        for n in 0..60 {
            let row = &rows[n % 4];
            gradient += (at_once.expected(row) - f64::from(u8::from(clicked(n)))) * row[d] / noise;
        }
        assert!(gradient.abs() < 1e-8, "{d}: {gradient}");
    }
}

#[test]
fn draws_have_the_posterior_s_mean_and_covariance() {
    let mut prior = Prior::new(vec![0.0; 2], vec![1.0, 4.0]);
    prior.observe(&[1.0, 0.5], 1.0, 0.5);
    prior.refactor();
    // By hand: S = 1 + 1 + 0.5, gain (1, 2) / S.
    let (want_mean, want) = ([0.4, 0.8], [[0.6, -0.8], [-0.8, 2.4]]);
    let mut rng = StdRng::seed_from_u64(5);
    let (mut sum, mut squares, count) = ([0.0; 2], [[0.0; 2]; 2], 100_000);
    for _ in 0..count {
        let mut draw = [0.0_f32; 2];
        prior.draw(1.0, &mut rng, &mut draw);
        let deviation = [0, 1].map(|d| f64::from(draw[d]) - want_mean[d]);
        for a in 0..2 {
            sum[a] += deviation[a] / f64::from(count);
            (0..2).for_each(|b| squares[a][b] += deviation[a] * deviation[b] / f64::from(count));
        }
    }
    // Five deviations: of a mean sqrt(variance / count), of a covariance at most sqrt(2 variance variance / count).
    for a in 0..2 {
        assert!(sum[a].abs() < 5.0 * (want[a][a] / f64::from(count)).sqrt(), "{sum:?}");
        for b in 0..2 {
            let deviation = (2.0 * want[a][a] * want[b][b] / f64::from(count)).sqrt();
            assert!((squares[a][b] - want[a][b]).abs() < 5.0 * deviation, "{squares:?}");
        }
    }
}

#[test]
fn an_event_changes_the_next_choice() {
    let catalog = catalog(4);
    let chooser = Chooser::default();
    let choose = |seed| {
        let mut rng = StdRng::seed_from_u64(seed);
        chooser.choose(&catalog, &Ask::default(), 0..4, &mut rng).unwrap()
    };
    let before: Vec<_> = (0..50).map(choose).collect();
    chooser.record(&catalog, 2, Outcome::Impression);
    chooser.record(&catalog, 2, Outcome::Click);
    let after: Vec<_> = (0..50).map(choose).collect();
    let times = |choices: &[longbow::auction::choose::Choice]| choices.iter().filter(|c| c.creative == 2).count();
    assert!(times(&after) > times(&before), "{} {}", times(&after), times(&before));
}

#[test]
fn what_one_user_likes_another_may_not() {
    // Two sizes; users of one taste click one, the others the other. No creative is better than another on average.
    let handle = handle();
    let mut small = banner("small", "p", None);
    small.format = Format::Banner { w: 320, h: 50, image_url: "https://i.example/s.png".into() };
    let records = [Change::Item(item("a", &[])), Change::Plan(plan("p", &["a"]))];
    let creatives = [Change::Creative(banner("large", "p", None)), Change::Creative(small)];
    handle.apply(records.into_iter().chain(creatives).collect()).unwrap();
    let catalog = handle.snapshot();
    let chooser = Chooser::default();
    let mut rng = StdRng::seed_from_u64(8);
    let tastes = [[1.0, 0.2, -0.4, 0.9, 0.3, -0.8], [-1.0, -0.2, 0.4, -0.9, -0.3, 0.8]];
    let mut right = 0;
    for round in 0..20_000 {
        let who = usize::from(rng.random_bool(0.5));
        let context = Context::of(&tastes[who], 50);
        let choice = chooser.choose(&catalog, &Ask { context, ..Ask::default() }, 0..2, &mut rng).unwrap();
        let sight = Sight { context, ..choice.creative.into() };
        chooser.record(&catalog, sight, Outcome::Impression);
        let liked = choice.creative as usize == who;
        if rng.random_bool(if liked { 0.06 } else { 0.02 }) {
            chooser.record(&catalog, sight, Outcome::Click);
        }
        if round % 500 == 0 {
            chooser.learn(&catalog, 0.0);
        }
        right += u32::from(round >= 15_000 && liked);
    }
    // A coin is right in 2,500 (deviation 35). Asked for is half of what lies between that and always.
    assert!(right > 3_750, "{right} of 5000");
}

#[test]
fn a_tired_user_gets_another_creative_and_nobody_else_does() {
    let catalog = catalog(2);
    let chooser = Chooser::default();
    let share = |user| {
        let ask = Ask { user, now_s: 1_000_000, ..Ask::default() };
        let mut rng = StdRng::seed_from_u64(1);
        (0..2_000).filter(|_| chooser.choose(&catalog, &ask, 0..2, &mut rng).unwrap().creative == 0).count()
    };
    // Both creatives have the same record; user 7 saw the first one ten times.
    for n in 0..400_u128 {
        let sight = Sight { user: 1_000 + n, now_s: 1_000_000, ..u32::from(n % 2 == 0).into() };
        chooser.record(&catalog, sight, Outcome::Impression);
        if n % 20 < 2 {
            chooser.record(&catalog, sight, Outcome::Click);
        }
    }
    let sight = Sight { user: 7, now_s: 1_000_000, ..0.into() };
    (0..10).for_each(|_| chooser.record(&catalog, sight, Outcome::Impression));
    let (tired, other) = (share(7), share(8));
    // Alike but for ten sights in 210 without a click: for user 8 less than half of 2,000, yet at least a quarter. For user
    // 7 the first one is worth half, which is many deviations of a draw.
    assert!((500..=1_050).contains(&other) && tired * 20 < other, "{tired} {other}");
    let later = Ask { user: 7, now_s: 1_000_000 + 30 * 86_400, ..Ask::default() };
    let draw = |ask: &Ask| chooser.choose(&catalog, ask, [0], &mut StdRng::seed_from_u64(4)).unwrap().sampled;
    assert!(draw(&Ask { now_s: 1_000_000, ..later }) < draw(&later), "a month later it is forgotten");
}

#[test]
fn states_of_older_servers_are_read() {
    let catalog = catalog(2);
    let old = r#"{"creatives":[["c1",{"impressions":50.0,"clicks":5.0}]],
        "forms":[{"impressions":50.0,"clicks":5.0},{"impressions":0.0,"clicks":0.0},{"impressions":0.0,"clicks":0.0}]}"#;
    let chooser = Chooser::default();
    chooser.restore(&catalog, &serde_json::from_str::<ChooserState>(old).unwrap());
    assert_eq!(chooser.seen(1), Seen { impressions: 50.0, clicks: 5.0 });
}
