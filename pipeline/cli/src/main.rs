//! The `capfilt` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(capfilt::main(std::env::args_os()))
}
