//! The server on a GPU, on a driver's word: a whole process on the stand-in driver (`scripts/gpu-host --driver` builds it; its
//! folder is `LD_LIBRARY_PATH`), or on a real one. Skipped where there is neither.

mod items;
mod tier;

use crate::process::{self, Link, PATIENCE, Process};
use crate::world::model_config;
use longbow::actions;
use longbow_kernels::cuda::probe;
use longbow_model::bundle::{self, About, Features};
use longbow_model::{Model, Seed};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Items of the demo world's process tests: all of them rows of the model.
const ITEMS: u32 = 3_000;
/// Width of the demo world's content vectors.
const CONTENT: usize = 48;
/// An environment in which no driver is found.
const NO_DRIVER: (&str, &str) = ("LD_LIBRARY_PATH", "");

fn stand_in() -> bool {
    probe().is_ok_and(|found| found.devices.iter().any(|device| device.name.contains("stand-in")))
}

/// A bundle whose full history is short: the stand-in driver is slow.
fn write_bundle(dir: &Path) {
    let mut config = model_config(ITEMS);
    config.max_sequence_len = 8;
    let model = Model::seeded(config, &Seed { seed: 5, content_dim: Some(CONTENT), head_hidden: 16 }).unwrap();
    let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let features = Features {
        actions: own(&actions::NAMES),
        tasks: own(&["click", "conversion", "value"]),
        times: "unix_seconds".to_owned(),
    };
    let (made_by, created) = ("a test".to_owned(), "2026-11-24T12:00:00Z".to_owned());
    let about =
        About { name: "short".to_owned(), made_by, created, features, calibration: Vec::new(), training: Value::Null };
    bundle::write(dir, &model, &about, 1).unwrap();
}

/// Settings of a small server over the bundle in `home`.
struct Small {
    _home: tempfile::TempDir,
    data: std::path::PathBuf,
    settings: Vec<String>,
}

impl Small {
    fn new(extra: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let bundle = home.path().join("short");
        write_bundle(&bundle);
        let mut settings = vec![format!("model.path={}", bundle.display())];
        let fixed = [
            "model.state_cache_mib=16",
            "auction.candidates_max=64",
            "auction.candidates=32",
            "auction.tick_ms=50",
            "auction.tmax_max_ms=30000",
            "drain.delay_ms=3000",
        ];
        settings.extend(fixed.iter().chain(extra).map(|setting| (*setting).to_owned()));
        Self { data: home.path().join("data"), _home: home, settings }
    }

    fn start(&self, environment: &[(&str, &str)]) -> Process {
        let settings: Vec<&str> = self.settings.iter().map(String::as_str).collect();
        Process::start_in("demo", &self.data, &settings, environment)
    }
}

fn device_of(server: &Process) -> String {
    let models = Link::new(server.admin).call("GET", "/v1/models", "").json();
    models["current"]["device"].as_str().unwrap().to_owned()
}

fn metric(server: &Process, name: &str) -> Option<f64> {
    let reply = Link::new(server.admin).call("GET", "/metrics", "");
    let text = String::from_utf8(reply.body).unwrap();
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// A ranking of five named items for one of the world's users: its status and whose answer it is.
fn rank(server: &Process, user: u32) -> (u16, Value) {
    let ask =
        json!({"user": format!("user-{user:05}"), "candidates": [1, 7, 50, 99, 120], "k": 5, "deadline_ms": 20_000});
    let reply = Link::new(server.http).call("POST", "/v1/rank", &ask.to_string());
    (reply.status, if reply.body.is_empty() { Value::Null } else { reply.json() })
}

#[test]
fn without_a_driver_the_same_program_takes_the_cpu_and_says_why() {
    let small = Small::new(&[]);
    let server = small.start(&[NO_DRIVER]);
    let device = device_of(&server);
    assert!(device.starts_with("cpu (") && device.contains("libcuda.so.1"), "{device}");
    assert!(process::log(&small.data).contains("libcuda.so.1"));
    assert_eq!(metric(&server, "longbow_gpu_serving"), Some(0.0));
    assert_eq!(rank(&server, 1).0, 200);
}

#[test]
fn a_gpu_that_is_demanded_and_absent_is_no_start() {
    let small = Small::new(&["model.device=cuda"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_longbow"));
    command.args(["demo", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data"]).arg(&small.data);
    command.args(small.settings.iter().flat_map(|setting| ["--set", setting]));
    let output = command.args(["--set", "demo.items=3000"]).env(NO_DRIVER.0, NO_DRIVER.1).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("longbow doctor") && text.contains("libcuda.so.1"), "{text}");
}

/// A newer device than all that the kernels were compiled for serves by their PTX; an old driver and an empty list do not.
#[test]
fn what_the_driver_and_the_device_are_decides_the_path() {
    if !stand_in() {
        return eprintln!("skipped: not the stand-in driver");
    }
    for (name, value, path, why) in [
        ("LONGBOW_STAND_IN_CAPABILITY", "120", "cuda (", "Sm80"),
        ("LONGBOW_STAND_IN_CAPABILITY", "75", "cpu (", "7.5 is below 8.0"),
        ("LONGBOW_STAND_IN_DRIVER", "12080", "cpu (", "for CUDA 12.8, and the kernels need one for 13.0"),
        ("LONGBOW_STAND_IN_DEVICES", "0", "cpu (", "no device 0"),
    ] {
        let small = Small::new(&[]);
        let server = small.start(&[(name, value)]);
        let device = device_of(&server);
        assert!(device.starts_with(path) && device.contains(why), "{name}={value}: {device}");
        assert_eq!(rank(&server, 1).0, 200, "{name}={value}");
    }
}

#[test]
fn a_gpu_without_room_is_left_for_the_cpu_with_the_reason() {
    if !stand_in() {
        return eprintln!("skipped: not the stand-in driver");
    }
    // The stand-in has 2 GiB.
    let small = Small::new(&["model.state_cache_mib=4096"]);
    let server = small.start(&[]);
    let device = device_of(&server);
    assert!(device.starts_with("cpu (") && device.contains("out of memory"), "{device}");
    assert_eq!(rank(&server, 1).0, 200);
}

#[test]
fn a_lost_gpu_fails_what_is_in_flight_and_the_cpu_answers_until_the_process_ends() {
    if !stand_in() {
        return eprintln!("skipped: not the stand-in driver");
    }
    let small = Small::new(&["model.device=cuda"]);
    let mark = small.data.with_extension("fail");
    let server = small.start(&[("LONGBOW_STAND_IN_FAIL_FILE", mark.to_str().unwrap())]);
    let device = device_of(&server);
    assert!(device.starts_with("cuda (stand-in on the host") && device.contains("self-check passed"), "{device}");
    assert_eq!(metric(&server, "longbow_gpu_serving"), Some(1.0));
    let on_gpu = rank(&server, 3);
    assert_eq!(on_gpu.0, 200, "{on_gpu:?}");
    assert_eq!(Link::new(server.admin).call("GET", "/readyz", "").status, 200);

    std::fs::write(&mark, "").unwrap();
    // A request whose launch is the one that fails; those after it go to the CPU.
    let failed = rank(&server, 4);
    assert_ne!(failed.0, 200, "{failed:?}");
    let on_cpu = rank(&server, 3);
    assert_eq!(on_cpu.0, 200, "{on_cpu:?}");
    let order = |answer: &Value| {
        let items = answer["items"].as_array().unwrap().iter();
        items.map(|item| item["id"].to_string()).collect::<Vec<_>>()
    };
    assert_eq!(order(&on_cpu.1), order(&on_gpu.1), "the CPU ranks as the GPU did");

    let until = Instant::now() + PATIENCE;
    let not_ready = loop {
        let reply = Link::new(server.admin).call("GET", "/readyz", "");
        if reply.status == 503 {
            break reply.json();
        }
        assert!(Instant::now() < until, "still ready");
        std::thread::sleep(Duration::from_millis(10));
    };
    let reasons = not_ready["reasons"].to_string();
    assert!(reasons.contains("degraded") && reasons.contains("gpu"), "{not_ready}");
    assert_eq!(metric(&server, "longbow_gpu_lost"), Some(1.0));
    assert_eq!(metric(&server, "longbow_gpu_serving"), Some(0.0));
    // Counters follow in the same tick.
    while metric(&server, "longbow_gpu_faults_total") == Some(0.0) {
        assert!(Instant::now() < until, "no fault is counted");
    }
    assert_eq!(metric(&server, "longbow_gpu_faults_total"), Some(1.0));
    assert_eq!(rank(&server, 5).0, 200, "the drain still answers");
    assert_eq!(server.wait().code(), Some(1), "whoever watches the process starts another");
    assert!(process::log(&small.data).contains("the GPU is lost"));
}

#[test]
fn the_doctor_names_device_driver_and_what_the_kernels_were_compiled_for() {
    if !stand_in() {
        return eprintln!("skipped: not the stand-in driver");
    }
    let doctor = |environment: &[(&str, &str)]| {
        let home = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_longbow"));
        command
            .args(["doctor", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data"])
            .arg(home.path().join("data"));
        let output = command.envs(environment.iter().copied()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let text = doctor(&[("LONGBOW_STAND_IN_CAPABILITY", "90")]);
    for part in ["stand-in on the host", "compute capability 9.0", "driver for CUDA 13.0", "9.0a", "Sm90"] {
        assert!(text.contains(part), "no `{part}` in {text}");
    }
    let text = doctor(&[("LONGBOW_STAND_IN_CAPABILITY", "100")]);
    assert!(text.contains("runs Sm80 from PTX") && text.contains("9.0a runs on 9.0 alone"), "{text}");
    let text = doctor(&[("LONGBOW_STAND_IN_DEVICES", "0")]);
    assert!(text.contains("no device; driver for CUDA 13.0") && text.contains("CUDA_VISIBLE_DEVICES"), "{text}");
    let text = doctor(&[("LONGBOW_STAND_IN_DRIVER", "12080")]);
    assert!(text.contains("driver for CUDA 12.8") && text.contains("update the driver"), "{text}");
    let text = doctor(&[("LONGBOW_STAND_IN_CAPABILITY", "75")]);
    assert!(text.contains("7.5 is below 8.0") && text.contains("use a GPU of compute capability 8.0"), "{text}");
}
