//! The `all-in-one` program.

use std::process::ExitCode;

use all_in_one::cli::Cli;

fn main() -> ExitCode {
    match Cli::from_arguments() {
        Ok(cli) => all_in_one::run(cli),
        Err(code) => code,
    }
}
