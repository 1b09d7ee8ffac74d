//! The sub-commands of `outbox-relay`: an operator's view of the outbox on a
//! terminal or in a script. What they see and do is [`crate::service`]'s; here
//! are arguments, words and exit codes.

mod change;
mod events;
mod output;
mod status;
mod watch;

use std::io;
use std::process::ExitCode;

use clap::Subcommand;
use clap_complete::Shell;
use shared::runtime::service::{self, Context, EXIT_USAGE, ProcessOptions, RunError};
use tokio_util::sync::CancellationToken;

use crate::service::bulk::Stopped;
use crate::service::{OperateError, Operator};
use crate::settings::Settings;

/// Exit code when it could not be found out or done: DynamoDB is away, or a
/// table does not exist (`EX_UNAVAILABLE` of sysexits.h). 1 says that it was
/// found out, and is not well.
pub const EXIT_UNAVAILABLE: u8 = 69;

/// Explanation of the exit codes, for the end of `--help`.
pub const EXIT_CODES: &str = "\
Without a command the relay runs.

Exit codes: 0 well or done; 1 not well, not found or not done; 64 wrong options; 69 DynamoDB or a table is away.";

/// What an operator can do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    Status(status::StatusCommand),
    List(events::ListCommand),
    Show(events::ShowCommand),
    Retry(change::RetryCommand),
    Discard(change::DiscardCommand),
    Replay(change::ReplayCommand),
    Shards(status::ShardsCommand),
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

/// Runs `command` on what `settings` and the AWS SDK's variables name. `program` is the whole
/// command line, for its completions.
pub fn run(
    command: Command,
    settings: &Settings,
    process: &ProcessOptions,
    program: clap::Command,
) -> ExitCode {
    if let Command::Completions { shell } = command {
        return exit_code(completions(shell, program));
    }
    let mut outcome = None;
    let code = service::run("outbox-relay", process, |context| {
        let outcome = &mut outcome;
        async move {
            let operator = Operator::new(&context.clients, settings);
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

fn completions(shell: Shell, mut program: clap::Command) -> Outcome {
    let name = program.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut program, name, &mut script);
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
