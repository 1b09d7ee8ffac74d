//! What every `main` does: parse the command line, start the runtime and
//! telemetry, run until SIGTERM or SIGINT, and turn the outcome into an exit
//! code.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use clap::error::ErrorKind;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::env_check;
use super::telemetry::{self, LogFormat, Telemetry};
use crate::aws::Clients;

/// Exit code for wrong options or environment (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;

/// Options of every process.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Process")]
pub struct ProcessOptions {
    /// How log lines are written.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// How long work in flight may take to finish after SIGTERM or SIGINT.
    #[arg(long, env = "SHUTDOWN_GRACE", value_name = "DURATION", default_value = "20s", value_parser = parse_duration)]
    pub shutdown_grace: Duration,
}

/// What a service is given to run with.
#[derive(Clone, Debug)]
pub struct Context {
    pub clients: Clients,
    pub telemetry: Telemetry,
    /// Cancelled by SIGTERM or SIGINT: stop intake, finish, return.
    pub stop: CancellationToken,
    /// How long finishing may take.
    pub grace: Duration,
}

/// Why a service stopped on its own.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration can never work; exit code 64.
    #[error("{0}")]
    Usage(String),
    /// Anything else; exit code 1.
    #[error("{0}")]
    Failed(String),
}

impl From<super::server::BindError> for RunError {
    fn from(error: super::server::BindError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Parses the command line and the environment, or exits: 0 after `--help` and
/// `--version`, 64 with one sentence on anything wrong.
pub fn parse<P: Parser>() -> Result<P, ExitCode> {
    parse_from(std::env::args_os())
}

/// [`parse`] with a command line other than this process's own; the first of
/// `arguments` is the program.
pub fn parse_from<P, A>(arguments: impl IntoIterator<Item = A>) -> Result<P, ExitCode>
where
    P: Parser,
    A: Into<OsString> + Clone,
{
    P::try_parse_from(arguments).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // Nothing is left to do if the terminal is gone.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{}", one_sentence(&error.to_string()));
            ExitCode::from(EXIT_USAGE)
        }
    })
}

/// clap explains over several paragraphs; the first is the sentence that names
/// the option and what is wrong with it.
fn one_sentence(message: &str) -> String {
    message
        .split("\n\n")
        .next()
        .unwrap_or(message)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs `service` on a new runtime until it returns. It is expected to return
/// soon after [`Context::stop`] is cancelled; past the grace period and a
/// little more the process ends without it.
pub fn run<F>(
    service_name: &'static str,
    options: &ProcessOptions,
    service: impl FnOnce(Context) -> F,
) -> ExitCode
where
    F: Future<Output = Result<(), RunError>>,
{
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the async runtime could not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let grace = options.shutdown_grace;
    let outcome = runtime.block_on(async {
        let telemetry =
            telemetry::init(service_name, options.log_format).map_err(RunError::Usage)?;
        env_check::check_aws(env_check::variable).map_err(RunError::Usage)?;
        let clients = Clients::from_env()
            .await
            .map_err(|error| RunError::Usage(error.to_string()))?;
        let stop = CancellationToken::new();
        cancel_on_signal(&stop).map_err(|error| RunError::Failed(error.to_string()))?;
        let context = Context {
            clients,
            telemetry: telemetry.clone(),
            stop: stop.clone(),
            grace,
        };
        let deadline = async {
            stop.cancelled().await;
            // A service ends by itself at `grace`; this is for one that hangs.
            tokio::time::sleep(grace + Duration::from_secs(2)).await;
        };
        let outcome = tokio::select! {
            outcome = service(context) => outcome,
            () = deadline => Err(RunError::Failed(format!(
                "work in flight did not finish within the grace period of {}",
                humantime::format_duration(grace)
            ))),
        };
        telemetry.shutdown().await;
        outcome
    });
    // Whatever a service left behind must not hold the exit up.
    runtime.shutdown_timeout(Duration::from_millis(100));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            match error {
                RunError::Usage(_) => ExitCode::from(EXIT_USAGE),
                RunError::Failed(_) => ExitCode::FAILURE,
            }
        }
    }
}

/// Cancels `stop` at the first SIGTERM or SIGINT.
pub fn cancel_on_signal(stop: &CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = stop.cancelled() => {}
        }
        stop.cancel();
    });
    Ok(())
}

/// A duration with its unit, such as `200ms`, `10s` or `7d`; not zero.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a number and a unit, such as 200ms, 10s or 7d"))?;
    if duration.is_zero() {
        return Err("a duration of zero is not possible".to_owned());
    }
    Ok(duration)
}

/// [`parse_duration`] of one from `least` to `most`.
pub fn parse_duration_within(
    text: &str,
    least: Duration,
    most: Duration,
) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if (least..=most).contains(&duration) {
        Ok(duration)
    } else {
        Err(format!(
            "must be from {} to {}",
            humantime::format_duration(least),
            humantime::format_duration(most)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_want_a_unit_and_a_value() {
        assert_eq!(parse_duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(604_800)));
        for wrong in ["", "10", "-1s", "0s", "ten seconds", "10 parsecs"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_option_is_explained_in_one_line() {
        let text = "error: invalid value 'x' for '--listen <ADDRESS>': bad\n\nFor more information, try '--help'.\n";
        assert_eq!(
            one_sentence(text),
            "error: invalid value 'x' for '--listen <ADDRESS>': bad"
        );
    }
}
