//! The load harness from outside: what its user is told of a mistake.

use std::process::Command;

#[test]
fn a_mistake_is_told_in_words_whatever_the_environment_says() {
    let output = Command::new(env!("CARGO_BIN_EXE_longbow-bench"))
        .args(["replay", "/nowhere/requests.jsonl"])
        .env("RUST_BACKTRACE", "1")
        .output()
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert_eq!(told, "longbow: open /nowhere/requests.jsonl: No such file or directory (os error 2)\n");
}
