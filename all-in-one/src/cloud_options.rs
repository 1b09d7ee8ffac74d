//! Options of the embedded cloud.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use clap::Args;
use local_cloud::{Config, Fidelity, MAX_SHARDS, ShardOptions};
use shared::runtime::service::parse_duration_within;

/// Retention of DynamoDB Streams.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Upper bound on the write units of a partition key.
const MAX_WRITE_UNITS: u32 = 100_000;

/// Listening addresses of the embedded cloud, where port 0 selects a free port, the shards of its
/// streams, and how closely its DynamoDB follows AWS.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Embedded cloud")]
pub struct CloudOptions {
    /// Listening address of DynamoDB and DynamoDB Streams.
    #[arg(
        long,
        env = "ALL_IN_ONE_DYNAMODB_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:8000"
    )]
    pub dynamodb_listen: SocketAddr,

    /// Listening address of SQS.
    #[arg(
        long,
        env = "ALL_IN_ONE_SQS_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:9324"
    )]
    pub sqs_listen: SocketAddr,

    /// Open shards of each stream, 1 to 64. Every reader of a shard reads the records of all
    /// shards from the embedded database, so each shard costs throughput.
    #[arg(
        long,
        value_name = "SHARDS",
        default_value = "1",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SHARDS))
    )]
    pub shards: u32,

    /// Interval at which the oldest open shard of each stream is closed, 100ms to 24h. It gets two
    /// children, or one if the stream has twice as many open shards as it started with [default:
    /// shards stay open].
    #[arg(long, value_name = "DURATION", value_parser = split_interval)]
    pub split_every: Option<Duration>,

    /// Age at which records of streams can no longer be read, 1s to 24h [default: 24h with several
    /// or splitting shards, otherwise unlimited].
    #[arg(long, value_name = "DURATION", value_parser = trim_age)]
    pub trim_after: Option<Duration>,

    /// Time for which a transaction holds its items before it is executed, 0ms to 10s, or `off`.
    /// Meanwhile other writes of these items fail with a transaction conflict, as on AWS, where a
    /// transaction takes about 10ms. With 0ms they fail only while it is executed, and with `off`
    /// never.
    #[arg(
        long,
        env = "ALL_IN_ONE_TRANSACTION_TIME",
        value_name = "DURATION",
        default_value = "0ms",
        value_parser = transaction_time
    )]
    pub transaction_time: Switch,

    /// Write units per second of each partition key, in tables and in their indexes, 1 to 100000,
    /// or `off`. Writes beyond it are throttled, as on AWS, where the limit is 1000.
    #[arg(
        long,
        env = "ALL_IN_ONE_PARTITION_WRITE_UNITS",
        value_name = "UNITS",
        default_value = "off",
        value_parser = write_units
    )]
    pub partition_write_units: Units,

    /// Time after which global secondary indexes receive a change, 1ms to 1h, or `off`. With it,
    /// every change is stored twice.
    #[arg(
        long,
        env = "ALL_IN_ONE_INDEX_DELAY",
        value_name = "DURATION",
        default_value = "off",
        value_parser = delay
    )]
    pub index_delay: Switch,

    /// Time after which streams have the records of a change, 1ms to 1h, or `off`. AWS needs about
    /// 100ms. With it, records are trimmed as with several shards.
    #[arg(
        long,
        env = "ALL_IN_ONE_STREAM_DELAY",
        value_name = "DURATION",
        default_value = "off",
        value_parser = delay
    )]
    pub stream_delay: Switch,

    /// Interval at which items are deleted whose time to live has passed, 100ms to 24h, or `off`.
    /// AWS deletes within a few days. Each deletion reads the tables with a time to live.
    #[arg(
        long,
        env = "ALL_IN_ONE_TTL_INTERVAL",
        value_name = "DURATION",
        default_value = "60s",
        value_parser = ttl_interval
    )]
    pub ttl_interval: Switch,
}

/// A duration, or `None` for `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch(pub Option<Duration>);

/// A number of write units, or `None` for `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Units(pub Option<NonZeroU32>);

impl CloudOptions {
    /// Returns the configuration of the cloud.
    pub fn config(&self) -> Config {
        Config {
            dynamodb: self.dynamodb_listen,
            sqs: self.sqs_listen,
            shards: self.shards(),
            fidelity: Fidelity {
                transaction_time: self.transaction_time.0,
                partition_write_units: self.partition_write_units.0,
                index_delay: self.index_delay.0,
                stream_delay: self.stream_delay.0,
                ttl_interval: self.ttl_interval.0,
            },
        }
    }

    /// Returns the shards of each stream; `None` for one shard that is neither closed nor trimmed.
    fn shards(&self) -> Option<ShardOptions> {
        let is_plain = self.shards == 1 && self.split_every.is_none() && self.trim_after.is_none();
        let options = ShardOptions {
            shards: NonZeroU32::new(self.shards)?,
            split_every: self.split_every,
            ..ShardOptions::default()
        };
        (!is_plain).then(|| ShardOptions {
            trim_after: self.trim_after.unwrap_or(options.trim_after),
            ..options
        })
    }
}

fn split_interval(text: &str) -> Result<Duration, String> {
    parse_duration_within(text, Duration::from_millis(100), DAY)
}

fn trim_age(text: &str) -> Result<Duration, String> {
    parse_duration_within(text, Duration::from_secs(1), DAY)
}

fn transaction_time(text: &str) -> Result<Switch, String> {
    switch(text, Duration::ZERO, Duration::from_secs(10))
}

fn delay(text: &str) -> Result<Switch, String> {
    switch(text, Duration::from_millis(1), Duration::from_secs(3600))
}

fn ttl_interval(text: &str) -> Result<Switch, String> {
    switch(text, Duration::from_millis(100), DAY)
}

fn write_units(text: &str) -> Result<Units, String> {
    if text == "off" {
        return Ok(Units(None));
    }
    match text.parse::<NonZeroU32>() {
        Ok(units) if units.get() <= MAX_WRITE_UNITS => Ok(Units(Some(units))),
        _ => Err(format!("expected 1 to {MAX_WRITE_UNITS}, or `off`")),
    }
}

/// Parses `off`, or a duration from `min` to `max`.
fn switch(text: &str, min: Duration, max: Duration) -> Result<Switch, String> {
    if text == "off" {
        return Ok(Switch(None));
    }
    if min.is_zero() && ["0s", "0ms"].contains(&text) {
        return Ok(Switch(Some(Duration::ZERO)));
    }
    match parse_duration_within(text, min, max) {
        Ok(duration) => Ok(Switch(Some(duration))),
        Err(error) => Err(format!("{error}, or `off`")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn cloud(arguments: &[&str]) -> Result<CloudOptions, clap::Error> {
        let cli = Cli::try_parse_from([&["all-in-one", "cloud"], arguments].concat())?;
        match cli.command {
            Command::Cloud(command) => Ok(command.cloud),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn streams_have_virtual_shards_only_on_request() {
        assert_eq!(cloud(&[]).unwrap().shards(), None);
        let shards = |arguments| cloud(arguments).unwrap().shards().unwrap();
        let four = shards(&["--shards", "4", "--split-every", "5s"]);
        assert_eq!(four.shards.get(), 4);
        assert_eq!(four.split_every, Some(Duration::from_secs(5)));
        assert_eq!(four.trim_after, DAY);
        let trimmed = shards(&["--trim-after", "1m"]);
        assert_eq!(trimmed.shards.get(), 1);
        assert_eq!(trimmed.trim_after, Duration::from_secs(60));
    }

    #[test]
    fn invalid_shard_options_are_rejected() {
        for wrong in [
            ["--shards", "0"],
            ["--shards", "65"],
            ["--split-every", "99ms"],
            ["--split-every", "5"],
            ["--trim-after", "25h"],
        ] {
            assert!(cloud(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn transactions_conflict_unless_switched_off() {
        let time = |arguments| cloud(arguments).unwrap().config().fidelity.transaction_time;
        assert_eq!(time(&[]), Some(Duration::ZERO));
        assert_eq!(time(&["--transaction-time", "off"]), None);
        let held = time(&["--transaction-time", "12ms"]);
        assert_eq!(held, Some(Duration::from_millis(12)));
        for wrong in ["", "0", "12", "-1ms", "11s", "OFF"] {
            assert!(cloud(&["--transaction-time", wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_slows_requests_down_is_off_by_default() {
        let fidelity = |arguments| cloud(arguments).unwrap().config().fidelity;
        assert_eq!(fidelity(&[]), Fidelity::default());
        let on = fidelity(&[
            "--partition-write-units",
            "1000",
            "--index-delay",
            "50ms",
            "--stream-delay",
            "100ms",
            "--ttl-interval",
            "off",
        ]);
        let expected = Fidelity {
            partition_write_units: NonZeroU32::new(1_000),
            index_delay: Some(Duration::from_millis(50)),
            stream_delay: Some(Duration::from_millis(100)),
            ttl_interval: None,
            ..Fidelity::default()
        };
        assert_eq!(on, expected);
        for wrong in [
            ["--partition-write-units", "0"],
            ["--partition-write-units", "100001"],
            ["--partition-write-units", "-1"],
            ["--index-delay", "0ms"],
            ["--stream-delay", "61m"],
            ["--ttl-interval", "99ms"],
            ["--ttl-interval", "25h"],
        ] {
            assert!(cloud(&wrong).is_err(), "{wrong:?}");
        }
    }
}
