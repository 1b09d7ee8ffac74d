//! `status` and `shards`.

use std::time::Duration;

use clap::Args;
use comfy_table::Table;
use outbox_store::dynamodb::Count;
use shared::runtime::service::parse_duration;

use super::Outcome;
use super::output::{
    Mood, OutputOptions, cell, line, painted, print, print_json, remark, seconds, spinner, table,
    text_of, without_controls,
};
use crate::service::{LeaseView, Life, Limits, Observer, Operator, StatusReport};

/// Say whether the outbox and its relays are well; exit code 1 when not.
///
/// Not well is: an event that is pending for longer than --max-lag, or a
/// reader of the stream that is further behind; more than --max-failed failed
/// events; a shard, or the sweeper's lease, whose owner gives no sign of life
/// or that nobody takes; no relay at all.
///
/// A lease's row does not tell whether its owner lives, as clocks of two
/// machines are not compared. So the leases are watched until their owners
/// beat, which takes a third of a lease duration when all is well, and a whole
/// one before an owner is called silent. RELAY_LEASE_DURATION must be that of
/// the relays.
#[derive(Clone, Debug, Args)]
pub struct StatusCommand {
    #[command(flatten)]
    limits: LimitOptions,

    #[command(flatten)]
    output: OutputOptions,
}

/// What is still well.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct LimitOptions {
    /// How old a pending event may be, and how far behind a reader.
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = parse_duration)]
    max_lag: Duration,

    /// How many failed events may wait for an operator.
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    max_failed: u64,
}

impl From<LimitOptions> for Limits {
    fn from(options: LimitOptions) -> Self {
        Self {
            max_lag: options.max_lag,
            max_failed: options.max_failed,
        }
    }
}

/// List the shards with their owners and how far they are read.
///
/// The sweeper's lease is one of them. An owner is alive when it beat while it
/// was watched, as in `status`.
#[derive(Clone, Debug, Args)]
pub struct ShardsCommand {
    /// Also shards that are read to their end or no longer in the stream.
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    output: OutputOptions,
}

impl StatusCommand {
    pub(super) async fn run(self, operator: &Operator) -> Outcome {
        let mut observer = Observer::default();
        // What fails here is said by the report.
        let _ = watched(operator, &mut observer).await;
        let report = operator.status(&mut observer, self.limits.into()).await?;
        if self.output.is_json() {
            print_json(&report)?;
        } else {
            print(&text(&report))?;
        }
        Ok(report.healthy)
    }
}

impl ShardsCommand {
    pub(super) async fn run(self, operator: &Operator) -> Outcome {
        let mut leases = watched(operator, &mut Observer::default()).await?;
        if !self.all {
            leases.retain(|lease| !matches!(lease.life, Life::Ended | Life::Gone));
        }
        if self.output.is_json() {
            print_json(&leases)?;
        } else if leases.is_empty() {
            remark("no relay of this consumer group has come to this stream yet");
        } else {
            print(&text_of(&lease_table(&leases)))?;
        }
        Ok(true)
    }
}

async fn watched(
    operator: &Operator,
    observer: &mut Observer,
) -> Result<Vec<LeaseView>, crate::service::OperateError> {
    let waiting = spinner(format!(
        "watching the leases beat, {} at most",
        humantime::format_duration(operator.silence())
    ));
    let leases = operator.observe(observer).await;
    waiting.finish_and_clear();
    leases
}

/// The whole report.
pub(super) fn text(report: &StatusReport) -> String {
    let mut lines = vec![verdict(report)];
    for problem in &report.problems {
        lines.push(format!("  - {}", without_controls(problem)));
    }
    lines.push(String::new());
    let oldest = report
        .oldest_pending_seconds
        .map_or_else(String::new, |age| {
            format!(", the oldest for {}", seconds(Some(age)))
        });
    let sweeper = report.sweeper.as_ref().map_or_else(
        || "nobody".to_owned(),
        |lease| format!("{} ({})", owner(lease), life(lease.life).0),
    );
    lines.extend([
        format!("pending  {}{oldest}", count(report.pending)),
        format!("failed   {}", count(report.failed)),
        format!("lag      {}", seconds(report.lag_seconds)),
        format!("sweeper  {sweeper}"),
        format!(
            "shards   {} open, {} read to the end, group {}",
            report.shards.len(),
            report.shards_ended,
            report.consumer_group
        ),
    ]);
    if !report.shards.is_empty() {
        lines.push(String::new());
        lines.push(text_of(&lease_table(&report.shards)));
    }
    lines.join("\n")
}

/// One word.
pub(super) fn verdict(report: &StatusReport) -> String {
    if report.healthy {
        painted("healthy", Mood::Good)
    } else {
        painted("UNHEALTHY", Mood::Bad)
    }
}

/// A number that may be a lower bound.
pub(super) fn count(count: Count) -> String {
    if count.exact {
        count.count.to_string()
    } else {
        format!("{} or more", count.count)
    }
}

fn lease_table(leases: &[LeaseView]) -> Table {
    let mut table = table(&[
        "LEASE",
        "STATE",
        "OWNER",
        "EPOCH",
        "BEHIND",
        "CHECKPOINT",
        "WANTED BY",
    ]);
    for lease in leases {
        let (word, mood) = life(lease.life);
        table.add_row(vec![
            cell(&line(&lease.lease, 128), Mood::Neutral),
            cell(word, mood),
            cell(&owner(lease), Mood::Neutral),
            cell(&lease.epoch.to_string(), Mood::Neutral),
            cell(&seconds(lease.behind_seconds), Mood::Neutral),
            cell(&or_dash(lease.checkpoint.as_deref()), Mood::Neutral),
            cell(&or_dash(lease.requested_by.as_deref()), Mood::Neutral),
        ]);
    }
    table
}

fn owner(lease: &LeaseView) -> String {
    or_dash(lease.owner.as_deref())
}

fn or_dash(text: Option<&str>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| line(text, 128))
}

fn life(life: Life) -> (&'static str, Mood) {
    match life {
        Life::Alive => ("alive", Mood::Good),
        Life::Unknown => ("unknown", Mood::Neutral),
        Life::Silent => ("silent", Mood::Bad),
        Life::Free => ("free", Mood::Bad),
        Life::Waiting => ("waiting", Mood::Neutral),
        Life::Ended => ("ended", Mood::Neutral),
        Life::Gone => ("gone", Mood::Neutral),
    }
}
