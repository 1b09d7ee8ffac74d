//! The common part of every `main`: parses the command line, starts the async runtime and
//! telemetry, runs the service until SIGTERM or SIGINT, and returns the exit code.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use clap::error::ErrorKind;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::telemetry::{self, LogFormat, Telemetry};
use super::{descriptors, env_check};
use crate::aws::Clients;

/// Exit code for invalid options or environment variables (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;

/// Options of every process.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Process")]
pub struct ProcessOptions {
    /// Format of log lines
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Time that work in flight may take to finish after SIGTERM or SIGINT
    #[arg(long, env = "SHUTDOWN_GRACE", value_name = "DURATION", default_value = "20s", value_parser = parse_duration)]
    pub shutdown_grace: Duration,

    /// Time between the signal and the start of the grace period, in which the service accepts
    /// requests. Services that can drain set it from an option of their own.
    #[arg(skip)]
    pub drain_delay: Duration,
}

/// Everything that a service receives to run.
#[derive(Clone, Debug)]
pub struct Context {
    pub clients: Clients,
    pub telemetry: Telemetry,
    /// Cancelled by SIGTERM or SIGINT: stop intake after the drain delay, finish, return.
    pub stop: CancellationToken,
    /// [`ProcessOptions::drain_delay`].
    pub drain_delay: Duration,
    /// Time that finishing may take.
    pub grace: Duration,
}

/// Reason for which a service stopped on its own.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is invalid; exit code 64.
    #[error("{0}")]
    Usage(String),
    /// Any other failure; exit code 1.
    #[error("{0}")]
    Failed(String),
}

impl From<super::server::BindError> for RunError {
    fn from(error: super::server::BindError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Parses the command line and the environment.
///
/// # Errors
/// The exit code: 0 after `--help` and `--version`, 64 after one printed sentence about an invalid
/// option.
pub fn parse<P: Parser>() -> Result<P, ExitCode> {
    parse_from(std::env::args_os())
}

/// Parses `arguments` like [`parse`] parses the command line of the process; the first argument is
/// the program.
pub fn parse_from<P, A>(arguments: impl IntoIterator<Item = A>) -> Result<P, ExitCode>
where
    P: Parser,
    A: Into<OsString> + Clone,
{
    P::try_parse_from(arguments).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // A closed terminal needs no output.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{}", one_sentence(&error.to_string()));
            ExitCode::from(EXIT_USAGE)
        }
    })
}

/// Returns the first paragraph of clap's message, the sentence that names the option and its error.
fn one_sentence(message: &str) -> String {
    message
        .split("\n\n")
        .next()
        .unwrap_or(message)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs `service` on a new async runtime until it returns. The service is expected to return within
/// drain delay and grace period after [`Context::stop`] is cancelled; two seconds after them the
/// process ends anyway.
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
            eprintln!("error: the async runtime cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ProcessOptions {
        shutdown_grace: grace,
        drain_delay,
        ..
    } = *options;
    let outcome = runtime.block_on(async {
        let telemetry =
            telemetry::init(service_name, options.log_format).map_err(RunError::Usage)?;
        descriptors::raise_limit();
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
            drain_delay,
            grace,
        };
        let deadline = async {
            stop.cancelled().await;
            // A service returns by itself at the end of `grace`; this is for a service that hangs.
            tokio::time::sleep(drain_delay + grace + Duration::from_secs(2)).await;
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
    // Tasks that outlive the service must not delay the exit.
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

/// Parses a duration with its unit, such as `200ms`, `10s` or `7d`; zero is rejected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a number and a unit, such as 200ms, 10s or 7d"))?;
    if duration.is_zero() {
        return Err("a duration must not be zero".to_owned());
    }
    Ok(duration)
}

/// Parses the time for which a service accepts requests after the signal to stop, 0s to 5m.
pub fn parse_drain_delay(text: &str) -> Result<Duration, String> {
    let delay = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a number and a unit, such as 5s; 0s is none"))?;
    if delay <= Duration::from_secs(300) {
        Ok(delay)
    } else {
        Err("must be from 0s to 5m".to_owned())
    }
}

/// Parses a duration from `min` to `max`, like [`parse_duration`].
pub fn parse_duration_within(text: &str, min: Duration, max: Duration) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if (min..=max).contains(&duration) {
        Ok(duration)
    } else {
        Err(format!(
            "must be from {} to {}",
            humantime::format_duration(min),
            humantime::format_duration(max)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_unit_and_a_value() {
        assert_eq!(parse_duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(604_800)));
        for wrong in ["", "10", "-1s", "0s", "ten seconds", "10 parsecs"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_invalid_option_is_explained_in_one_line() {
        let text = "error: invalid value 'x' for '--listen <ADDRESS>': bad\n\nFor more information, try '--help'.\n";
        assert_eq!(
            one_sentence(text),
            "error: invalid value 'x' for '--listen <ADDRESS>': bad"
        );
    }
}
