//! `scripts/gpu-check` as it runs on a strange machine: from the packed file, in an empty folder, without an environment, with
//! programs that fail, crash and do not end. Its one table must be there whatever happens.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What stands in for the program `gpu`: a part that fails, one that does not end, not even when asked to, and one that crashes.
const GPU: &str = r#"#!/bin/bash
case "$*" in
    *device*) echo "Device: none at all"; exit 0 ;;
    *golden*) echo "| golden | one file | error 1 | | 2 | ok |"; echo "| golden | other file | error 3 | | 2 | FAIL |"; echo "what was wrong" >&2; exit 1 ;;
    *shapes*) trap '' TERM; echo "| shapes | some | 0 failed | | 2x bf16 | ok |"; sleep 600 ;;
    *goals*) echo "| goals | a figure | 1 ms | | 2 ms | met |"; kill -SEGV $$ ;;
esac
"#;

/// A folder with the script and what `--pack` makes, of these programs.
fn packed(gpu: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("gpu-check");
    for part in ["scripts", "golden", "lib"] {
        fs::create_dir_all(folder.join(part)).unwrap();
    }
    fs::write(folder.join("golden/a.safetensors"), "").unwrap();
    for (name, text) in
        [("gpu", gpu), ("longbow", "#!/bin/bash\necho no server here\nexit 3\n"), ("longbow-bench", "#!/bin/bash\n")]
    {
        fs::write(folder.join(name), text).unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts");
    fs::create_dir(home.path().join("scripts")).unwrap();
    for name in ["gpu-check", "gpu-peer"] {
        fs::copy(scripts.join(name), folder.join("scripts").join(name)).unwrap();
    }
    fs::copy(scripts.join("gpu-check"), home.path().join("scripts/gpu-check")).unwrap();
    let done = Command::new("tar").args(["-czf", "gpu-check.tgz", "gpu-check"]).current_dir(&home).status().unwrap();
    assert!(done.success());
    fs::remove_dir_all(folder).unwrap();
    home
}

/// The script, as `env -i` would start it.
fn script(home: &Path) -> Command {
    let mut command = Command::new("/bin/bash");
    command.arg("scripts/gpu-check").current_dir(home).env_clear().env("GPU_CHECK_LIMIT", "2");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn report(home: &Path, output: &Output) -> String {
    let path: PathBuf = home.join("gpu-check.md");
    let text = fs::read_to_string(path).unwrap();
    assert_eq!(text, String::from_utf8_lossy(&output.stdout), "what is printed is what is written");
    let headers = text.lines().filter(|line| line.starts_with("| part | what |")).count();
    assert_eq!(headers, 1, "{text}");
    text
}

#[test]
fn every_part_has_its_rows_whatever_the_others_do() {
    let home = packed(GPU);
    let output = script(home.path()).output().unwrap();
    let text = report(home.path(), &output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for row in [
        "| golden | one file | error 1 | | 2 | ok |",
        "| golden | other file | error 3 | | 2 | FAIL |",
        "| golden | the part | exit 1, ",
        "| shapes | some | 0 failed | | 2x bf16 | ok |",
        "| shapes | the part | ended after its limit, ",
        "| goals | a figure | 1 ms | | 2 ms | met |",
        "| goals | the part | exit 139, ",
        "| server | the part | exit 1, ",
        "| peer | the part | ",
        "what was wrong",
        "no server here",
    ] {
        assert!(text.contains(row), "no `{row}` in\n{text}");
    }
}

#[test]
fn who_ends_it_gets_the_table_so_far() {
    let home = packed(GPU);
    let child = script(home.path()).env("GPU_CHECK_LIMIT", "60").spawn().unwrap();
    // The shapes do not end by themselves.
    let until = Instant::now() + Duration::from_secs(60);
    std::thread::sleep(Duration::from_secs(3));
    let ended = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().unwrap();
    assert!(ended.success());
    let output = child.wait_with_output().unwrap();
    assert!(Instant::now() < until, "it waited for what does not end");
    let text = report(home.path(), &output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("| golden | one file |") && text.contains("| script | shapes | ended from outside"),
        "{text}"
    );
}

#[test]
fn no_gpu_and_no_package_have_exit_codes_of_their_own() {
    let home = packed("#!/bin/bash\necho 'error: no NVIDIA driver: libcuda.so.1 cannot be loaded'\nexit 1\n");
    let output = script(home.path()).output().unwrap();
    let text = report(home.path(), &output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("| device |") && text.contains("libcuda.so.1 cannot be loaded"), "{text}");
    fs::remove_file(home.path().join("gpu-check.tgz")).unwrap();
    let output = script(home.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--pack"));
}
