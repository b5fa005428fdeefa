//! Every kind of I/O call failed once at each of its first calls, and a full disk.

use crate::crash::{Acked, child, verify};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles the library that fails calls; `None` (with a message) where there is no C compiler.
fn shim(dir: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shim/fail_io.c");
    let library = dir.join("fail_io.so");
    let compiled =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl").status();
    match compiled {
        Ok(status) if status.success() => Some(library),
        other => {
            eprintln!("skipped: no C compiler ({other:?})");
            None
        }
    }
}

/// Runs a child to its end and takes what it says.
fn run(mut command: Command) -> Acked {
    let mut process = command.spawn().unwrap();
    let mut acked = Acked::default();
    for line in BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok) {
        acked.take(&line);
    }
    process.wait().unwrap();
    acked
}

#[test]
fn each_io_call_failed_once_poisons_and_loses_nothing_acknowledged() {
    let tools = tempfile::tempdir().unwrap();
    let Some(library) = shim(tools.path()) else { return };
    let mut report = Vec::new();
    for call in ["write", "pwrite64", "pread64", "fsync", "fdatasync", "ftruncate64"] {
        let (mut n, mut failures, mut noticed) = (1u32, 0, 0);
        loop {
            let dir = tempfile::tempdir().unwrap();
            let mark = tools.path().join(format!("{call}-{n}"));
            let mut command = child(dir.path(), 0);
            command.env("LONGBOW_CRASH_ROUNDS", "6").env("LD_PRELOAD", &library);
            command.env("FAIL_DIR", dir.path()).env("FAIL_CALL", call);
            command.env("FAIL_AT", n.to_string()).env("FAIL_MARK", &mark);
            let acked = run(command);
            let failed = mark.exists();
            assert!(failed || acked.finished, "{call} {n}: the child ended without a failure: {acked:?}");
            // The failure came before the child served, or it noticed, or (while closing) all was done already.
            assert!(!failed || acked.poisoned || acked.len() == 0 || acked.finished, "{call} {n}: {acked:?}");
            noticed += u32::from(acked.poisoned);
            verify(dir.path(), &acked).unwrap_or_else(|fault| panic!("{call} {n}: {fault}"));
            if !failed {
                break;
            }
            failures += 1;
            // Every early call, then ever wider apart.
            n = if n < 8 { n + 1 } else { n + n / 3 };
        }
        assert!(noticed > 0 || !matches!(call, "write" | "pwrite64" | "fdatasync"), "{call} never poisoned");
        report.push(format!("{call} {failures} ({noticed} while serving)"));
    }
    println!("failed once each: {}", report.join(", "));
}

/// A small tmpfs, removed when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, size: &str) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", size, "none"]).arg(at).stderr(std::process::Stdio::null());
        match mount.status() {
            Ok(status) if status.success() => Some(Self(at.to_owned())),
            other => {
                eprintln!("skipped: cannot mount a tmpfs ({other:?})");
                None
            }
        }
    }

    fn grow(&self, size: &str) {
        let option = format!("remount,{size}");
        assert!(Command::new("mount").args(["-o", &option]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _left_for_the_system = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_poisons_and_loses_nothing_acknowledged() {
    let place = tempfile::tempdir().unwrap();
    for size in ["size=4m", "size=6m"] {
        let Some(disk) = SmallDisk::mount(place.path(), size) else { return };
        let dir = place.path().join("data");
        std::fs::create_dir(&dir).unwrap();
        let acked = run({
            let mut command = child(&dir, 0);
            command.env("LONGBOW_CRASH_ROUNDS", "20000");
            command
        });
        assert!(!acked.finished, "the disk never filled");
        assert!(acked.poisoned || acked.len() == 0, "{size}: not poisoned");
        println!("{size}: {} acknowledgements before it was full", acked.len());
        disk.grow("size=64m");
        verify(&dir, &acked).unwrap_or_else(|fault| panic!("{size}: {fault}"));
    }
}
