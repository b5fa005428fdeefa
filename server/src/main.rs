//! `longbow`: arguments to settings to a running command.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    longbow::cli::main(std::env::args_os())
}
