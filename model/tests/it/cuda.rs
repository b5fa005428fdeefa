//! The GPU path, on a GPU or on the stand-in driver (`scripts/gpu-host --driver`); skipped where there is neither.

mod tier;

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use longbow_kernels::cuda::CudaEngine;
use longbow_model::cuda::{CudaEncoder, FallbackEncoder};
use longbow_model::{
    Advance, EncodeError, Encoded, Encoder, Finish, ItemTable, Model, Score, UserState, Window, golden,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::support::{self, Events};

/// The stand-in driver knows one thread at a time.
static DEVICE: Mutex<()> = Mutex::new(());

/// The device to oneself, or nothing where there is none.
fn device() -> Option<(MutexGuard<'static, ()>, Arc<CudaEngine>)> {
    let guard = DEVICE.lock().unwrap_or_else(PoisonError::into_inner);
    match CudaEngine::new(0) {
        Ok(engine) => Some((guard, Arc::new(engine))),
        Err(why) => {
            eprintln!("skipped: {why}");
            None
        }
    }
}

fn encoder(model: &Arc<Model>, engine: &Arc<CudaEngine>) -> CudaEncoder {
    CudaEncoder::new(Arc::clone(model), Arc::clone(engine), 32 << 20).unwrap()
}

fn advance(encoder: &mut dyn Encoder, state: &mut UserState, window: Window<'_>, items: &ItemTable, rows_max: usize) {
    encoder.advance(&mut [Advance { state, window, items, rows_max }]).unwrap();
}

fn finish(encoder: &mut dyn Encoder, state: &UserState, window: Window<'_>, items: &ItemTable) -> Encoded {
    let query_time = window.times.last().copied().unwrap_or(1_700_000_000) + 50;
    encoder.finish(&[Finish { state, window, items, query_time }]).unwrap().remove(0)
}

/// Largest distance of two lists of numbers.
fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |worst, d| if d.is_nan() { f32::INFINITY } else { worst.max(d) })
}

#[test]
fn golden_files_hold_on_the_device() {
    let Some((_guard, engine)) = device() else { return };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/golden");
    if !folder.is_dir() {
        eprintln!("skipped: ../shared is absent");
        return;
    }
    for name in ["hstu-ml1m-base", "hstu-odd-shapes", "hstu-rated-heads"] {
        let report = golden::check_device(folder.join(format!("{name}.safetensors")), &engine).unwrap().unwrap();
        eprintln!("{name}: {:?}, allowed {:.1e}", report.checks, report.tolerance);
        assert!(report.pass(), "{report:?}");
        assert!(report.tolerance < 0.1, "plain bf16 strays so far that the check says nothing: {report:?}");
    }
}

#[test]
fn states_in_pages_give_what_the_cpu_gives() {
    let Some((_guard, engine)) = device() else { return };
    let model = support::model(support::config(400), 3);
    let (mut gpu, mut cpu) = (encoder(&model, &engine), support::encoder(&model, 1));
    let items = ItemTable::new(&model);
    let mut rng = StdRng::seed_from_u64(5);
    for length in [0, 1, 2, 64, 65, 150] {
        let events = Events::random(&mut rng, length, items.rows());
        let (mut on_gpu, mut on_cpu) = (gpu.new_state(), cpu.new_state());
        let mut held: Vec<(UserState, usize)> = Vec::new();
        while on_gpu.rows_missing(&events.window()) > 0 {
            // Steps that cut across pages, and clones that share them.
            held.push((on_gpu.clone(), on_gpu.rows()));
            advance(&mut gpu, &mut on_gpu, events.window(), &items, 1 + rng.random_range(0..60));
        }
        advance(&mut cpu, &mut on_cpu, events.window(), &items, usize::MAX);
        let (a, b) =
            (finish(&mut gpu, &on_gpu, events.window(), &items), finish(&mut cpu, &on_cpu, events.window(), &items));
        assert_eq!(a.events(), b.events());
        assert_eq!(a.query().is_some(), length > 0);
        let distance = apart(a.query().unwrap_or_default(), b.query().unwrap_or_default());
        assert!(distance < 0.02, "query of {length} events: {distance}");
        let candidates: Vec<u32> = (1..40).collect();
        let score = |encoder: &mut dyn Encoder, encoded: &Encoded| {
            encoder.score(&[Score { encoded, items: &items, candidates: &candidates }]).unwrap().remove(0).probs
        };
        let distance = apart(&score(&mut gpu, &a), &score(&mut cpu, &b));
        assert!(distance < 0.01, "probabilities after {length} events: {distance}");
        // An older state is as it was: the copy before the append saw to that.
        for (state, rows) in held.iter().filter(|(_, rows)| *rows > 0) {
            let window = events.window().first(rows + 1);
            let (mut again, mut fresh) = (state.clone(), gpu.new_state());
            advance(&mut gpu, &mut fresh, window, &items, usize::MAX);
            advance(&mut gpu, &mut again, window, &items, usize::MAX);
            let (old, new) = (finish(&mut gpu, &again, window, &items), finish(&mut gpu, &fresh, window, &items));
            assert!(
                apart(old.query().unwrap(), new.query().unwrap()) < 0.02,
                "a state of {rows} rows changed under its holder"
            );
        }
    }
    assert_eq!(gpu.pool().free_pages(), gpu.pool().store().pages(), "a page was not given back");
}

#[test]
fn a_result_does_not_depend_on_its_neighbours() {
    let Some((_guard, engine)) = device() else { return };
    let model = support::model(support::config(300), 4);
    let mut gpu = encoder(&model, &engine);
    let items = ItemTable::new(&model);
    let mut rng = StdRng::seed_from_u64(6);
    let users: Vec<Events> = [130, 1, 77].iter().map(|&n| Events::random(&mut rng, n, items.rows())).collect();
    let candidates: Vec<u32> = (1..50).collect();
    let mut together: Vec<UserState> = users.iter().map(|_| gpu.new_state()).collect();
    let mut jobs: Vec<Advance<'_>> = together
        .iter_mut()
        .zip(&users)
        .map(|(state, user)| Advance { state, window: user.window(), items: &items, rows_max: usize::MAX })
        .collect();
    gpu.advance(&mut jobs).unwrap();
    let query_time = 1_900_000_000;
    let jobs: Vec<Finish<'_>> = together
        .iter()
        .zip(&users)
        .map(|(state, user)| Finish { state, window: user.window(), items: &items, query_time })
        .collect();
    let all = gpu.finish(&jobs).unwrap();
    let jobs: Vec<Score<'_>> =
        all.iter().map(|encoded| Score { encoded, items: &items, candidates: &candidates }).collect();
    let scores = gpu.score(&jobs).unwrap();
    for (at, user) in users.iter().enumerate() {
        // Three times: launched, written down as a graph, replayed.
        for _ in 0..3 {
            let mut state = gpu.new_state();
            advance(&mut gpu, &mut state, user.window(), &items, usize::MAX);
            let alone =
                gpu.finish(&[Finish { state: &state, window: user.window(), items: &items, query_time }]).unwrap();
            assert_eq!(alone[0].query(), all[at].query());
            let job = Score { encoded: &alone[0], items: &items, candidates: &candidates };
            assert_eq!(gpu.score(&[job]).unwrap()[0], scores[at]);
        }
    }
}

/// Many jobs in passes of a few rows, of which one goes up while another runs: as each job alone. On the stand-in driver
/// streams are late, or run ahead by what is drawn from a seed.
#[test]
fn passes_that_overlap_give_what_passes_alone_give() {
    if std::env::var_os("LONGBOW_STAND_IN_SEED").is_none() {
        let Some((guard, engine)) = device() else { return };
        let stand_in = engine.device().info().name.contains("stand-in");
        drop((engine, guard));
        let name = "cuda::passes_that_overlap_give_what_passes_alone_give";
        for seed in ["1", "2", "3"].into_iter().filter(|_| stand_in) {
            let mut again = Command::new(std::env::current_exe().unwrap());
            let done = again.args(["--exact", name]).env("LONGBOW_STAND_IN_SEED", seed).output().unwrap();
            let text = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
            assert!(done.status.success() && text.contains("1 passed"), "seed {seed}: {text}");
        }
    }
    let Some((_guard, engine)) = device() else { return };
    let model = support::model(support::config(150), 12);
    let items = ItemTable::new(&model);
    let mut alone = encoder(&model, &engine);
    let mut together = encoder(&model, &engine).with_pass_rows(40);
    let mut rng = StdRng::seed_from_u64(13);
    let users: Vec<Events> = [70, 2, 33, 18, 51].iter().map(|&n| Events::random(&mut rng, n, items.rows())).collect();
    let candidates: Vec<u32> = (1..60).collect();
    let query_time = 1_900_000_000;
    // The second time pages are used again, and the memory of the passes has grown.
    for _ in 0..2 {
        let mut states: Vec<UserState> = users.iter().map(|_| together.new_state()).collect();
        let mut jobs: Vec<Advance<'_>> = states
            .iter_mut()
            .zip(&users)
            .map(|(state, user)| Advance { state, window: user.window(), items: &items, rows_max: usize::MAX })
            .collect();
        together.advance(&mut jobs).unwrap();
        let jobs: Vec<Finish<'_>> = states
            .iter()
            .zip(&users)
            .map(|(state, user)| Finish { state, window: user.window(), items: &items, query_time })
            .collect();
        let all = together.finish(&jobs).unwrap();
        let jobs: Vec<Score<'_>> =
            all.iter().map(|encoded| Score { encoded, items: &items, candidates: &candidates }).collect();
        let scores = together.score(&jobs).unwrap();
        for ((user, encoded), scores) in users.iter().zip(&all).zip(&scores) {
            let mut state = alone.new_state();
            // In the same slices, of which no two are under way: so every bit is the same.
            while state.rows_missing(&user.window()) > 0 {
                advance(&mut alone, &mut state, user.window(), &items, 20);
            }
            let job = Finish { state: &state, window: user.window(), items: &items, query_time };
            let own = alone.finish(&[job]).unwrap().remove(0);
            assert_eq!(encoded.query(), own.query(), "{} events", user.window().len());
            let slices = candidates.chunks(20).flat_map(|candidates| {
                let job = Score { encoded: &own, items: &items, candidates };
                alone.score(&[job]).unwrap().remove(0).probs
            });
            assert_eq!(scores.probs, slices.collect::<Vec<f32>>(), "{} events", user.window().len());
        }
    }
    assert_eq!(together.pool().free_pages(), together.pool().store().pages(), "a page was not given back");
}

#[test]
fn new_items_and_a_changed_past_are_seen() {
    let Some((_guard, engine)) = device() else { return };
    let model = support::model(support::config(200), 8);
    let (mut gpu, mut cpu) = (encoder(&model, &engine), support::encoder(&model, 1));
    let mut items = ItemTable::new(&model);
    let mut rng = StdRng::seed_from_u64(7);
    let mut events = Events::random(&mut rng, 90, items.rows());
    let (mut on_gpu, mut on_cpu) = (gpu.new_state(), cpu.new_state());
    let content: Vec<f32> = (0..items.content_dim()).map(|_| rng.random_range(-0.5..0.5)).collect();
    for change in 0..3 {
        let slot = items.append(&content).unwrap();
        match change {
            0 => {}
            1 => events.items[40] = slot,
            _ => events.times[70] -= 5,
        }
        advance(&mut gpu, &mut on_gpu, events.window(), &items, usize::MAX);
        advance(&mut cpu, &mut on_cpu, events.window(), &items, usize::MAX);
        let (a, b) =
            (finish(&mut gpu, &on_gpu, events.window(), &items), finish(&mut cpu, &on_cpu, events.window(), &items));
        let distance = apart(a.query().unwrap(), b.query().unwrap());
        assert!(distance < 0.02, "change {change}: {distance}");
    }
}

#[test]
fn running_out_of_pages_is_an_error_of_the_call_alone() {
    let Some((_guard, engine)) = device() else { return };
    let model = support::model(support::config(300), 9);
    let items = ItemTable::new(&model);
    let page = 2 * 2 * 64 * 128 * 2 + 512;
    let mut gpu = CudaEncoder::new(Arc::clone(&model), engine, 3 * page).unwrap();
    let mut rng = StdRng::seed_from_u64(8);
    let (long, short) = (Events::random(&mut rng, 300, items.rows()), Events::random(&mut rng, 30, items.rows()));
    let mut state = gpu.new_state();
    let job = Advance { state: &mut state, window: long.window(), items: &items, rows_max: usize::MAX };
    let error = gpu.advance(&mut [job]).unwrap_err();
    assert!(matches!(&error, EncodeError::Kernel(why) if why.contains("out of memory")), "{error}");
    assert_eq!(state.rows(), 0);
    assert!(!gpu.lost());
    assert_eq!(gpu.pool().free_pages(), 3);
    advance(&mut gpu, &mut state, short.window(), &items, usize::MAX);
    assert!(finish(&mut gpu, &state, short.window(), &items).query().is_some());
}

/// Run in a process of its own, with a launch that fails as an illegal address would.
#[test]
fn a_lost_device_leaves_the_cpu() {
    if std::env::var_os("LONGBOW_STAND_IN_FAIL").is_none() {
        let Some((guard, _)) = device() else { return };
        drop(guard);
        let myself = std::env::current_exe().unwrap();
        let arguments = ["--exact", "cuda::a_lost_device_leaves_the_cpu", "--nocapture"];
        let done = Command::new(myself).args(arguments).env("LONGBOW_STAND_IN_FAIL", "40").output().unwrap();
        let text = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    let Some((_guard, engine)) = device() else { return };
    let model = support::model(support::config(200), 10);
    let items = ItemTable::new(&model);
    let mut both = FallbackEncoder::new(encoder(&model, &engine), support::encoder(&model, 1));
    let health = both.health();
    let mut rng = StdRng::seed_from_u64(11);
    let events = Events::random(&mut rng, 100, items.rows());
    let mut state = both.new_state();
    let mut failures = 0;
    for round in 0..200 {
        let window = events.window().first(round % 100 + 1);
        let result = both.advance(&mut [Advance { state: &mut state, window, items: &items, rows_max: 7 }]);
        if let Err(error) = result {
            assert!(matches!(&error, EncodeError::Kernel(why) if why.contains("lost")), "{error}");
            failures += 1;
        }
        if health.lost() && failures == 1 && state.rows_missing(&window) == 0 && round > 60 {
            break;
        }
    }
    assert_eq!((failures, health.faults()), (1, 1), "one call fails, and no later one");
    assert!(health.lost());
    // From here on the CPU answers, from the beginning of the history.
    advance(&mut both, &mut state, events.window(), &items, usize::MAX);
    let encoded = finish(&mut both, &state, events.window(), &items);
    let mut cpu = support::encoder(&model, 1);
    let mut fresh = cpu.new_state();
    advance(&mut cpu, &mut fresh, events.window(), &items, usize::MAX);
    assert_eq!(encoded.query(), finish(&mut cpu, &fresh, events.window(), &items).query());
}
