//! The operators' sub-commands of `outbox-relay`, for a terminal or a script. [`crate::service`]
//! issues the requests; this module has the arguments, the output and the exit codes.
//!
//! - `status`: `status` and `shards`.
//! - `list`: `list`, and the table of events that `show` also prints.
//! - `show`: `show`.
//! - `change`: `retry`, `discard` and `replay`.
//! - `dead_letters`: `dlq list`, `dlq redrive` and `dlq discard`.
//! - `watch`: `watch`, the status at an interval.
//! - `output`: text and JSON on standard output, for all of them.

mod change;
mod dead_letters;
mod list;
mod output;
mod show;
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

/// Exit code of a command that could not complete, because DynamoDB or SQS is unavailable or denies
/// the request, or because a table does not exist (`EX_UNAVAILABLE` of sysexits.h). Exit code 1 in
/// contrast is a result: unhealthy, not found or failed.
pub const EXIT_UNAVAILABLE: u8 = 69;

/// Explanation of the exit codes, for the end of `--help`.
pub const EXIT_CODES: &str = "\
Without a command the relay runs.

Exit codes: 0 healthy/succeeded; 1 unhealthy, not found or failed; 64 usage; 69 DynamoDB or SQS unavailable.";

/// The operators' commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    Status(status::StatusCommand),
    List(list::ListCommand),
    Show(show::ShowCommand),
    Retry(change::RetryCommand),
    Discard(change::DiscardCommand),
    Replay(change::ReplayCommand),
    Shards(status::ShardsCommand),
    Watch(watch::WatchCommand),
    Dlq(dead_letters::DlqCommand),
    /// Print the completion script of a shell, for the shell to source.
    Completions {
        #[arg(value_enum)]
        shell: Shell,
    },
}

/// Reason why a command ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error(transparent)]
    Operate(#[from] OperateError),
    #[error("{0}")]
    Usage(String),
    #[error("cannot write to standard output: {0}")]
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

/// Result of a command: `true` for exit code 0, `false` for exit code 1.
type Outcome = Result<bool, CommandError>;

impl CommandError {
    fn exit_code(&self) -> ExitCode {
        match self {
            // `| head` has read enough and closed the pipe.
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

/// Runs `command` on the tables and the consumer group of `settings`, in the account and region
/// of the AWS SDK's environment variables. `program` is the definition of the whole command line,
/// from which completions are generated.
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
                output::print_notice(&format!("error: {error}"));
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
        // These observe `stop` themselves: they print what was changed before they end.
        Command::Retry(command) => command.run(operator, stop).await,
        Command::Discard(command) => command.run(operator, stop).await,
        Command::Replay(command) => command.run(operator, stop).await,
        Command::Watch(command) => command.run(operator, stop).await,
        Command::Dlq(command) => command.run(operator, stop).await,
        Command::Completions { .. } => Ok(true),
    }
}

/// Runs `work` and drops it at `stop`. Only for work that changes nothing.
async fn unless_stopped<T>(
    stop: &CancellationToken,
    work: impl Future<Output = Result<T, CommandError>>,
) -> Result<T, CommandError> {
    let outcome = stop.run_until_cancelled(work).await;
    outcome.unwrap_or(Err(CommandError::Interrupted))
}
