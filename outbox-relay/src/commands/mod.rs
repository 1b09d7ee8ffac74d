//! The sub-commands of `outbox-relay`: an operator's view of the outbox on a
//! terminal or in a script. What they see and do is [`crate::operate`]'s; here
//! are arguments, words and exit codes.

mod act;
mod events;
mod health;
mod output;
mod watch;

use std::io;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use clap_complete::Shell;
use shared::runtime::service::{self, Context, EXIT_USAGE, RunError};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::operate::bulk::Stopped;
use crate::operate::{OperateError, Operator};

/// Exit code when it could not be found out or done: DynamoDB is away, or a
/// table does not exist (`EX_UNAVAILABLE` of sysexits.h). 1 says that it was
/// found out, and is not well.
pub const EXIT_UNAVAILABLE: u8 = 69;

/// The relay's options, and what else the program does.
#[derive(Clone, Debug, Args)]
#[command(subcommand_help_heading = "Operator commands", after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten, next_help_heading = "Relay")]
    pub config: Config,

    /// None: run the relay.
    #[command(subcommand)]
    pub command: Option<Command>,
}

const EXIT_CODES: &str = "\
Without a command the relay runs.

Exit codes: 0 well or done; 1 not well, not found or not done; 64 wrong options; 69 DynamoDB or a table is away.";

/// What an operator can do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    Status(health::StatusCommand),
    List(events::ListCommand),
    Show(events::ShowCommand),
    Retry(act::RetryCommand),
    Discard(act::DiscardCommand),
    Replay(act::ReplayCommand),
    Shards(health::ShardsCommand),
    Watch(watch::WatchCommand),
    /// Print the completions of a shell, to be sourced by it.
    Completions {
        #[arg(value_enum)]
        shell: Shell,
    },
}

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error(transparent)]
    Operate(#[from] OperateError),
    #[error("{0}")]
    Usage(String),
    #[error("standard output cannot be written: {0}")]
    Output(io::Error),
    #[error("interrupted")]
    Interrupted,
}

impl From<Stopped> for CommandError {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Interrupted => Self::Interrupted,
            Stopped::Failed(error) => Self::Operate(error),
        }
    }
}

/// Whether all is well, or done.
type Outcome = Result<bool, CommandError>;

impl CommandError {
    fn exit_code(&self) -> ExitCode {
        match self {
            // `| head` has seen enough.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Self::Usage(_) | Self::Operate(OperateError::Invalid(_)) => ExitCode::from(EXIT_USAGE),
            Self::Operate(OperateError::Unavailable(_) | OperateError::Refused(_)) => {
                ExitCode::from(EXIT_UNAVAILABLE)
            }
            Self::Operate(OperateError::NotFound(_) | OperateError::TooLarge(_))
            | Self::Output(_)
            | Self::Interrupted => ExitCode::FAILURE,
        }
    }
}

/// Runs `command` against what `config` and the AWS SDK's variables name.
pub fn run(command: Command, config: &Config) -> ExitCode {
    if let Command::Completions { shell } = command {
        return exit_code(completions(shell));
    }
    let mut outcome = None;
    let code = service::run("outbox-relay", &config.process, |context| {
        let outcome = &mut outcome;
        async move {
            let operator = Operator::new(&context.clients, config);
            *outcome = Some(execute(command, &operator, &context).await);
            Ok::<(), RunError>(())
        }
    });
    outcome.map_or(code, exit_code)
}

fn exit_code(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            if !matches!(&error, CommandError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
            {
                output::remark(&format!("error: {error}"));
            }
            error.exit_code()
        }
    }
}

fn completions(shell: Shell) -> Outcome {
    let mut program = Cli::augment_args(clap::Command::new("outbox-relay"));
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut program, "outbox-relay", &mut script);
    output::print(String::from_utf8_lossy(&script).trim_end())?;
    Ok(true)
}

async fn execute(command: Command, operator: &Operator, context: &Context) -> Outcome {
    let stop = &context.stop;
    match command {
        Command::Status(command) => unless_stopped(stop, command.run(operator)).await,
        Command::List(command) => unless_stopped(stop, command.run(operator)).await,
        Command::Show(command) => unless_stopped(stop, command.run(operator)).await,
        Command::Shards(command) => unless_stopped(stop, command.run(operator)).await,
        // These end by themselves, and say how far they came.
        Command::Retry(command) => command.run(operator, stop).await,
        Command::Discard(command) => command.run(operator, stop).await,
        Command::Replay(command) => command.run(operator, stop).await,
        Command::Watch(command) => command.run(operator, stop).await,
        Command::Completions { .. } => Ok(true),
    }
}

/// Leaves `work` where it is at `stop`: for what changes nothing.
async fn unless_stopped<T>(
    stop: &CancellationToken,
    work: impl Future<Output = Result<T, CommandError>>,
) -> Result<T, CommandError> {
    let outcome = stop.run_until_cancelled(work).await;
    outcome.unwrap_or(Err(CommandError::Interrupted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::augment_args(clap::Command::new("outbox-relay")).debug_assert();
    }
}
