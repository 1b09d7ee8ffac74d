//! The program's command line: the relay's options and the operator's sub-commands.

use std::process::ExitCode;

use clap::Args;
use outbox_admin::cli::{Command, EXIT_CODES};

use crate::config::Config;

/// The relay's options and the operator's sub-commands.
#[derive(Clone, Debug, Args)]
#[command(subcommand_help_heading = "Operator commands", after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten, next_help_heading = "Relay")]
    pub config: Config,

    /// Sub-command; without one the relay runs.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Runs an operator's command with the tables and the consumer group of `config`.
pub fn run(command: Command, config: &Config) -> ExitCode {
    let program = Cli::augment_args(clap::Command::new("outbox-relay"));
    outbox_admin::cli::run(command, &config.admin_settings(), &config.process, program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::augment_args(clap::Command::new("outbox-relay")).debug_assert();
    }
}
