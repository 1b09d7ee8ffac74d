//! The options of `chaos`.

use std::fs::{self, File};
use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use http::Uri;
use local_cloud::{MAX_SHARDS, ShardOptions};
use shared::runtime::service::parse_duration_within;
use shared::runtime::telemetry::LogFormat;

use super::history::FaultKind;

/// Default number of shards.
const SHARDS: NonZeroU32 = NonZeroU32::new(4).expect("4 is not zero");

/// Default interval at which shards are closed, if there are several.
const SPLIT_EVERY: Duration = Duration::from_secs(5);

/// Options of the chaos tester.
#[derive(Clone, Debug, Args)]
pub struct ChaosOptions {
    /// Duration of workloads and faults, 5s to 24h. Draining comes after it.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub duration: Duration,

    /// Orders per second, 1 to 2000. The sequence workload writes half as many events in addition.
    #[arg(long, value_name = "ORDERS", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    pub rate: u32,

    /// Faults to inject, a comma-separated list [default: all kinds].
    #[arg(long, value_enum, value_name = "FAULTS", value_delimiter = ',', default_values_t = FaultKind::value_variants().to_vec(), hide_default_value = true)]
    pub faults: Vec<FaultKind>,

    /// Seed of the schedule; the report of a run names it [default: random].
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,

    /// Number of relays, 1 to 16.
    #[arg(long, value_name = "PROCESSES", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub relays: u8,

    /// Number of workers, 1 to 16.
    #[arg(long, value_name = "PROCESSES", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub workers: u8,

    /// Time after which the leases of an unresponsive relay expire, 1s to 60s.
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = lease_duration)]
    pub lease_duration: Duration,

    /// Time limit for draining after workloads and faults have ended, 1s to 1h.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = drain_limit)]
    pub drain_limit: Duration,

    /// Upper bound on the resident memory of each process, in MiB, 1 to 1048576.
    #[arg(long, value_name = "MIB", default_value_t = 160, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub memory_limit: u64,

    #[command(flatten)]
    pub embedded: EmbeddedCloud,

    #[command(flatten)]
    pub endpoints: Endpoints,

    #[command(flatten)]
    pub output: Output,

    /// Program to run instead of the worker, to test that the checks fail.
    #[arg(long, value_name = "PATH", hide = true)]
    pub worker_program: Option<PathBuf>,

    /// Format of log lines.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// Shards of the embedded cloud's streams.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Embedded cloud")]
pub struct EmbeddedCloud {
    /// Open shards of each stream at the start, 1 to 64.
    #[arg(
        long,
        value_name = "SHARDS",
        default_value_t = SHARDS,
        conflicts_with = "dynamodb_endpoint",
        value_parser = shards
    )]
    pub shards: NonZeroU32,

    /// Interval at which the oldest open shard of each stream is closed, 100ms to 24h. It gets two
    /// children, or one if the stream has twice as many open shards as it started with [default:
    /// 5s; a single shard stays open].
    #[arg(long, value_name = "DURATION", conflicts_with = "dynamodb_endpoint", value_parser = split_interval)]
    pub split_every: Option<Duration>,
}

impl EmbeddedCloud {
    /// Returns the interval at which shards are closed; `None` if they stay open.
    pub(super) fn split_interval(self) -> Option<Duration> {
        let of_several = (self.shards > NonZeroU32::MIN).then_some(SPLIT_EVERY);
        self.split_every.or(of_several)
    }

    /// Returns the shards of each stream; `None` for one shard that stays open.
    pub(super) fn shard_options(self) -> Option<ShardOptions> {
        let split_every = self.split_interval();
        let is_plain = self.shards == NonZeroU32::MIN && split_every.is_none();
        (!is_plain).then(|| ShardOptions {
            shards: self.shards,
            split_every,
            ..ShardOptions::default()
        })
    }
}

/// Endpoints of another cloud. The run creates tables and queues of its own there and deletes them
/// at the end. Requests are signed for the address of the proxy, so the services must not check
/// signatures.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Another cloud")]
pub struct Endpoints {
    /// Endpoint of DynamoDB, such as http://127.0.0.1:8000.
    #[arg(long, value_name = "URL", requires = "sqs_endpoint", value_parser = endpoint)]
    pub dynamodb_endpoint: Option<Uri>,

    /// Endpoint of DynamoDB Streams [default: that of DynamoDB].
    #[arg(long, value_name = "URL", requires = "dynamodb_endpoint", value_parser = endpoint)]
    pub streams_endpoint: Option<Uri>,

    /// Endpoint of SQS.
    #[arg(long, value_name = "URL", requires = "dynamodb_endpoint", value_parser = endpoint)]
    pub sqs_endpoint: Option<Uri>,
}

/// Files to be written in addition to the printed report.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct Output {
    /// Write the report as JSON.
    #[arg(long, value_name = "FILE", value_parser = file)]
    pub report: Option<PathBuf>,

    /// Write the report as an HTML page.
    #[arg(long, value_name = "FILE", value_parser = file)]
    pub html: Option<PathBuf>,

    /// Write the history, from which the report is computed, as JSON.
    #[arg(long, value_name = "FILE", value_parser = file)]
    pub history: Option<PathBuf>,

    /// Write the log of each process to a file in this folder.
    #[arg(long, value_name = "FOLDER")]
    pub logs: Option<PathBuf>,
}

/// Parses the name of a writable file. A failure at the end of a run would be too late.
fn file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if text.is_empty() || path.is_dir() {
        return Err("expected the name of a file".to_owned());
    }
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => Err(format!(
            "no folder `{}`: create it or name another one",
            folder.display()
        )),
        _ => match try_to_write(&path) {
            Ok(()) => Ok(path),
            Err(error) => Err(format!("the file cannot be written: {error}")),
        },
    }
}

/// Opens a file for writing without changing or leaving anything.
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

fn shards(text: &str) -> Result<NonZeroU32, String> {
    let shards = text
        .parse::<NonZeroU32>()
        .map_err(|error| error.to_string())?;
    if shards.get() > MAX_SHARDS {
        return Err(format!("expected 1 to {MAX_SHARDS}"));
    }
    Ok(shards)
}

fn split_interval(text: &str) -> Result<Duration, String> {
    parse_duration_within(
        text,
        Duration::from_millis(100),
        Duration::from_secs(24 * 3600),
    )
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
        return Err("expected http://HOST:PORT".to_owned());
    }
    if uri.path() != "/" || uri.query().is_some() {
        return Err("an endpoint must not have a path".to_owned());
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
    fn all_faults_are_injected_by_default() {
        assert_eq!(parse(&[]).unwrap().faults, FaultKind::value_variants());
        let few = parse(&["--faults", "kill,cut-after"]).unwrap().faults;
        assert_eq!(few, [FaultKind::Kill, FaultKind::CutAfter]);
    }

    #[test]
    fn both_endpoints_are_required_and_must_be_http_addresses() {
        let both = ["--dynamodb-endpoint", "http://h:1", "--sqs-endpoint"];
        assert!(parse(&[&both[..], &["http://h:2"]].concat()).is_ok());
        for wrong in ["https://h:2", "h:2", "http://", "http://h:2/path"] {
            assert!(parse(&[&both[..], &[wrong]].concat()).is_err(), "{wrong}");
        }
        assert!(parse(&both[..2]).is_err());
    }

    #[test]
    fn several_shards_split_and_a_single_one_stays_open() {
        let shards = |arguments| parse(arguments).unwrap().embedded.shard_options();
        let splits = |arguments| {
            let options = shards(arguments).unwrap();
            (options.shards.get(), options.split_every.unwrap().as_secs())
        };
        assert_eq!(splits(&[]), (4, 5));
        assert_eq!(splits(&["--shards", "2", "--split-every", "9s"]), (2, 9));
        assert_eq!(splits(&["--shards", "1", "--split-every", "7s"]), (1, 7));
        assert_eq!(shards(&["--shards", "1"]), None);
    }

    #[test]
    fn shards_are_those_of_the_embedded_cloud() {
        let both = [
            "--dynamodb-endpoint",
            "http://h:1",
            "--sqs-endpoint",
            "http://h:2",
        ];
        for option in [["--shards", "2"], ["--split-every", "5s"]] {
            assert!(parse(&[&both[..], &option].concat()).is_err(), "{option:?}");
        }
    }

    #[test]
    fn invalid_values_are_rejected() {
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
            ["--shards", "0"],
            ["--shards", "65"],
            ["--split-every", "99ms"],
            ["--memory-limit", "0"],
        ] {
            assert!(parse(&wrong).is_err(), "{wrong:?}");
        }
    }
}
