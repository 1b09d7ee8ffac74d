//! The options of `chaos`.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use http::Uri;
use shared::runtime::service::parse_duration_within;
use shared::runtime::telemetry::LogFormat;

use super::history::FaultKind;

/// `chaos`.
#[derive(Clone, Debug, Args)]
pub struct ChaosOptions {
    /// How long load and faults go on, 5s to 24h. Draining comes after it.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub duration: Duration,

    /// Orders per second, 1 to 2000. Events that no order brings forth are
    /// written half as often besides.
    #[arg(long, value_name = "ORDERS", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    pub rate: u32,

    /// What goes wrong: a comma-separated list [default: everything].
    #[arg(long, value_enum, value_name = "FAULTS", value_delimiter = ',', default_values_t = FaultKind::value_variants().to_vec(), hide_default_value = true)]
    pub faults: Vec<FaultKind>,

    /// Repeats the schedule of a run, which its report names [default: another
    /// every time].
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,

    /// How many relays, 1 to 16.
    #[arg(long, value_name = "PROCESSES", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub relays: u8,

    /// How many workers, 1 to 16.
    #[arg(long, value_name = "PROCESSES", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub workers: u8,

    /// How long a relay that gives no sign of life keeps its shards, 1s to 60s.
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = lease_duration)]
    pub lease_duration: Duration,

    /// Once load and faults have ended, everything must be settled within this
    /// time, 1s to 1h.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = drain_limit)]
    pub drain_limit: Duration,

    /// Resident memory that no process may pass, in MiB, 1 to 1048576.
    #[arg(long, value_name = "MIB", default_value_t = 160, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub memory_limit: u64,

    #[command(flatten)]
    pub endpoints: Endpoints,

    #[command(flatten)]
    pub output: Output,

    /// Run this instead of the worker, to see the checks fail.
    #[arg(long, value_name = "PATH", hide = true)]
    pub worker_program: Option<PathBuf>,

    /// How log lines are written.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// Instead of the embedded cloud. Tables and queues of this run's own are
/// created there, and deleted at the end. Requests are signed for the proxy's
/// address, so this is for services that do not check signatures.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Another cloud")]
pub struct Endpoints {
    /// Where DynamoDB is, such as http://127.0.0.1:8000.
    #[arg(long, value_name = "URL", requires = "sqs_endpoint", value_parser = endpoint)]
    pub dynamodb_endpoint: Option<Uri>,

    /// Where DynamoDB Streams is [default: where DynamoDB is].
    #[arg(long, value_name = "URL", requires = "dynamodb_endpoint", value_parser = endpoint)]
    pub streams_endpoint: Option<Uri>,

    /// Where SQS is.
    #[arg(long, value_name = "URL", requires = "dynamodb_endpoint", value_parser = endpoint)]
    pub sqs_endpoint: Option<Uri>,
}

/// What is left of a run besides what it prints.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct Output {
    /// Write the report as JSON.
    #[arg(long, value_name = "FILE", value_parser = file)]
    pub report: Option<PathBuf>,

    /// Write the report as a page.
    #[arg(long, value_name = "FILE", value_parser = file)]
    pub html: Option<PathBuf>,

    /// Write everything that was seen, which is what the report is made from,
    /// as JSON.
    #[arg(long, value_name = "FILE", value_parser = file)]
    pub history: Option<PathBuf>,

    /// Write what each process logs to a file in this folder.
    #[arg(long, value_name = "FOLDER")]
    pub logs: Option<PathBuf>,
}

/// A file that can be written in the end: a run is too long to find out then.
fn file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if text.is_empty() || path.is_dir() {
        return Err("write the name of a file".to_owned());
    }
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            Err(format!("there is no folder `{}`", folder.display()))
        }
        _ => match try_to_write(&path) {
            Ok(()) => Ok(path),
            Err(error) => Err(format!("it cannot be written: {error}")),
        },
    }
}

/// Opens a file for writing, and leaves everything as it was.
fn try_to_write(path: &Path) -> io::Result<()> {
    match File::create_new(path) {
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            File::options().append(true).open(path).map(drop)
        }
        Err(error) => Err(error),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration_within(text, Duration::from_secs(5), Duration::from_secs(24 * 3600))
}

fn lease_duration(text: &str) -> Result<Duration, String> {
    parse_duration_within(text, Duration::from_secs(1), Duration::from_secs(60))
}

fn drain_limit(text: &str) -> Result<Duration, String> {
    parse_duration_within(text, Duration::from_secs(1), Duration::from_secs(3600))
}

fn endpoint(text: &str) -> Result<Uri, String> {
    let uri = text.parse::<Uri>().map_err(|error| error.to_string())?;
    if uri.scheme_str() != Some("http") || uri.host().is_none_or(str::is_empty) {
        return Err("write it as http://HOST:PORT".to_owned());
    }
    if uri.path() != "/" || uri.query().is_some() {
        return Err("an endpoint has no path".to_owned());
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: ChaosOptions,
    }

    fn parse(arguments: &[&str]) -> Result<ChaosOptions, clap::Error> {
        Cli::try_parse_from([&["chaos"], arguments].concat()).map(|cli| cli.options)
    }

    #[test]
    fn every_fault_is_injected_by_default() {
        assert_eq!(parse(&[]).unwrap().faults, FaultKind::value_variants());
        let few = parse(&["--faults", "kill,cut-after"]).unwrap().faults;
        assert_eq!(few, [FaultKind::Kill, FaultKind::CutAfter]);
    }

    #[test]
    fn an_endpoint_is_an_http_address_and_comes_with_the_other() {
        let both = ["--dynamodb-endpoint", "http://h:1", "--sqs-endpoint"];
        assert!(parse(&[&both[..], &["http://h:2"]].concat()).is_ok());
        for wrong in ["https://h:2", "h:2", "http://", "http://h:2/path"] {
            assert!(parse(&[&both[..], &[wrong]].concat()).is_err(), "{wrong}");
        }
        assert!(parse(&both[..2]).is_err());
    }

    #[test]
    fn wrong_values_are_refused() {
        for wrong in [
            ["--duration", "1s"],
            ["--duration", "10"],
            ["--rate", "0"],
            ["--faults", "earthquake"],
            ["--faults", ""],
            ["--relays", "0"],
            ["--workers", "17"],
            ["--seed", "-1"],
            ["--lease-duration", "500ms"],
            ["--report", "/"],
            ["--html", "no/such/folder/report.html"],
            ["--drain-limit", "2h"],
            ["--memory-limit", "0"],
        ] {
            assert!(parse(&wrong).is_err(), "{wrong:?}");
        }
    }
}
