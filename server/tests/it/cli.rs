//! The binary from outside: exit codes, messages, JSON lines.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn longbow(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longbow"));
    command.args(args).env_remove("LONGBOW_CONFIG");
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn last_json(output: &Output) -> Value {
    let out = text(&output.stdout);
    serde_json::from_str(out.trim_end().lines().last().unwrap()).unwrap()
}

#[test]
fn every_command_explains_itself_with_an_example() {
    let help = text(&longbow(&["--help"]).stdout);
    for command in ["demo", "serve", "import", "eval", "golden", "bundle", "models", "doctor", "config"] {
        assert!(help.contains(command), "{help}");
        let output = longbow(&[command, "--help"]);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains(&format!("Example:\n  longbow {command}")), "{command}");
    }
}

#[test]
fn wrong_arguments_and_settings_exit_64() {
    for args in [&["fly"][..], &["config", "--nonsense"], &["config", "--set", "novalue"]] {
        assert_eq!(longbow(args).status.code(), Some(64), "{args:?}");
    }
    let output = longbow(&["config", "--set", "batch.qeue_max=3", "--http", "here"]);
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(
        text(&output.stderr),
        "longbow: flag --set: unknown key `batch.qeue_max`; did you mean `batch.queue_max`?\n\
         longbow: flag --http: `http.listen` must be an address and port, as in \"127.0.0.1:8080\", found the text \"here\"\n"
    );
    assert!(output.stdout.is_empty());
}

#[test]
fn a_server_with_a_wrong_setting_binds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let output = longbow(&["serve", "--data", data.to_str().unwrap(), "--set", "http.connections_max=0"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("`http.connections_max` is 0, allowed is"));
    assert!(!data.exists());
}

#[test]
fn a_server_without_a_model_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let output =
        longbow(&["serve", "--data", dir.path().to_str().unwrap(), "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("longbow: no model: "), "{}", text(&output.stderr));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "and leaves nothing behind");
}

#[test]
fn a_directory_that_cannot_be_used_is_named_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    for data in [file.clone(), file.join("below")] {
        for command in ["serve", "demo"] {
            let data = data.to_str().unwrap();
            let output = longbow(&[command, "--data", data, "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains(&format!("longbow: data.dir {data}: ")), "{said}");
        }
    }
}

#[test]
fn an_error_is_printed_with_its_cause_and_that_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(path("ledger.redb"), [7; 8_192]).unwrap();
    std::fs::write(path("model.safetensors"), b"short").unwrap();
    let commands: [(&[&str], &str); 3] = [
        (&["serve", "--data", &path(""), "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"], "ledger"),
        (&["bundle", &path("model.safetensors"), &path("made")], "truncated"),
        (&["bundle", &path("none"), &path("made")], "No such file"),
    ];
    for (args, told) in commands {
        let output = longbow(args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let line = said.lines().find(|line| line.starts_with("longbow: ")).unwrap_or_else(|| panic!("{said}"));
        let mut parts: Vec<&str> = line.split(": ").collect();
        let all = parts.len();
        parts.sort_unstable();
        parts.dedup();
        assert!(line.contains(told) && parts.len() == all, "{line}");
    }
}

#[test]
fn the_effective_settings_are_printed() {
    let output = longbow(&[
        "config",
        "--http",
        "127.0.0.1:81",
        "--set",
        "index.kind=exact",
        "--set",
        "admin.token=canary-161",
        "--json",
    ]);
    assert_eq!(output.status.code(), Some(0));
    let out = text(&output.stdout);
    assert!(out.contains("listen = \"127.0.0.1:81\"") && out.contains("kind = \"exact\""), "{out}");
    assert!(!out.contains("canary-161"));
    assert_eq!(last_json(&output)["index"]["kind"], "exact");
}

#[test]
fn the_doctor_finds_this_machine_fit_and_a_bad_directory_unfit() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("not/yet/made");
    let ports = ["--http", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--json", "--data"];
    let file = dir.path().join("one.safetensors");
    std::fs::write(&file, "x").unwrap();
    let model = ["--set", &format!("model.path={}", file.display())];
    let output = longbow(&[&["doctor"][..], &ports, &[data.to_str().unwrap()], &model].concat());
    let report = last_json(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    let findings = report["findings"].as_array().unwrap();
    for name in ["cpu", "kernels", "cores", "memory", "faiss", "blas", "gpu", "data", "open files", "port http"] {
        assert!(findings.iter().any(|finding| finding["name"] == name), "{name}");
    }
    assert!(findings.iter().all(|f| f["verdict"] == "ok" || f["fix"].is_string()), "what is not well has a fix");
    assert!(!dir.path().join("not").exists(), "looking changes nothing");

    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let output = longbow(&[&["doctor"][..], &ports, &[file.join("data").to_str().unwrap()]].concat());
    assert_eq!((output.status.code(), last_json(&output)["healthy"].clone()), (Some(1), false.into()));

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let output = longbow(&[
        "doctor",
        "--http",
        &taken.local_addr().unwrap().to_string(),
        "--data",
        dir.path().to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("choose another address with --http"));
}

#[test]
fn the_doctor_finds_the_model_as_the_server_does() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    let model = |more: &[&str]| {
        let ports = ["doctor", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--json", "--data", data];
        let output = longbow(&[&ports[..], more].concat());
        let report = last_json(&output);
        let found =
            report["findings"].as_array().unwrap().iter().find(|found| found["name"] == "model").unwrap().clone();
        (
            output.status.code(),
            found["verdict"].as_str().unwrap().to_owned(),
            found["found"].as_str().unwrap().to_owned(),
        )
    };
    // What to do is said once.
    let advice = |more: &[&str], words: &str| {
        let output = longbow(&[&["doctor", "--data", data][..], more].concat());
        assert_eq!(text(&output.stdout).matches(words).count(), 1, "{}", text(&output.stdout));
    };
    advice(&[], "longbow demo");
    advice(&["--set", "model.path=/nope/x"], "to a bundle directory or a safetensors file");
    let (code, verdict, found) = model(&[]);
    assert_eq!((code, &*verdict), (Some(1), "fault"), "{found}");
    assert!(found.starts_with("no model: "), "{found}");
    let served = longbow(&["serve", "--data", data, "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    assert!(text(&served.stderr).contains(&*found), "the server's words: {}", text(&served.stderr));
    let (_, verdict, found) = model(&["--set", "model.path=/nope/x"]);
    assert!(verdict == "fault" && found.contains("/nope/x"), "{found}");
    std::fs::write(dir.path().join("model.safetensors"), "x").unwrap();
    let (_, verdict, found) = model(&[]);
    assert!(verdict == "ok" && found.contains("model.safetensors, bare file"), "{found}");
}

#[test]
fn golden_files_pass_and_a_damaged_one_fails() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/golden/stu-small.safetensors");
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("broken.safetensors");
    std::fs::write(&broken, b"not a model").unwrap();
    let output = longbow(&["golden", broken.to_str().unwrap(), "--json"]);
    assert_eq!((output.status.code(), last_json(&output)["pass"].clone()), (Some(1), false.into()));
    assert!(last_json(&output)["results"][0]["error"].is_string());
    if !shared.exists() {
        println!("skipped: ../shared is absent");
        return;
    }
    let output = longbow(&["golden", shared.to_str().unwrap(), "--json"]);
    let report = last_json(&output);
    assert_eq!((output.status.code(), report["pass"].clone()), (Some(0), true.into()), "{report:#}");
    assert_eq!(report["results"].as_array().unwrap().len(), 2, "both paths");
    assert!(report["results"][1]["error_max"].as_f64().unwrap() > 0.0);
}
