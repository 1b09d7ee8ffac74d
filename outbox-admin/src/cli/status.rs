//! `status` and `shards`.

use std::time::Duration;

use clap::Args;
use comfy_table::Table;
use outbox_store::dynamodb::Count;
use shared::runtime::service::parse_duration;

use super::Outcome;
use super::output::{
    OutputOptions, Tone, cell, colored, escape_controls, format_seconds, print, print_json,
    print_notice, render, single_line, spinner, table,
};
use crate::service::{
    LeaseKind, LeaseObserver, LeaseView, Limits, Liveness, Operator, StatusReport,
};

/// Report whether the outbox and its relays are healthy; exit code 1 if not.
///
/// The outbox is unhealthy if an event has been pending for longer than
/// --max-lag, a reader of the stream is further behind than that, more than
/// --max-failed events are failed, the lease of a shard or sweeper or the
/// maintenance lease has no owner or one without heartbeats, or an item that
/// cannot be read, or no relay runs.
///
/// The lag is the age of the time before which the slowest reader has processed
/// every record. A reader without new events writes that time every third of a
/// lease duration, so the lag of an idle outbox is as long as that at most.
///
/// Deferred events are pending ones that their queue does not accept, or that
/// wait for an earlier event of their aggregate. Their numbers by queue are
/// those that each sweeper last counted.
///
/// A single read of a lease does not show whether its owner is alive, because
/// clocks of two machines are not compared. The command therefore observes the
/// leases until their owners send a heartbeat. That takes a third of a lease
/// duration while the relays are healthy, and a whole lease duration before an
/// owner is reported without a heartbeat. RELAY_LEASE_DURATION must be that of
/// the relays.
#[derive(Clone, Debug, Args)]
pub struct StatusCommand {
    #[command(flatten)]
    limits: LimitOptions,

    #[command(flatten)]
    output: OutputOptions,
}

/// Limits beyond which the status is unhealthy.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct LimitOptions {
    /// Maximum age of a pending event, and maximum lag of a reader of the stream.
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = parse_duration)]
    max_lag: Duration,

    /// Maximum number of failed events.
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

/// List the leases of the shards, with owner, state and progress.
///
/// The maintenance lease (`sweeper`) and the leases of the sweepers
/// (`sweeper#0` to `sweeper#7`) are listed as well. An owner is alive if it
/// sent a heartbeat while the command observed it, as in `status`.
#[derive(Clone, Debug, Args)]
pub struct ShardsCommand {
    /// Include shards that are fully consumed or no longer in the stream.
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    output: OutputOptions,
}

impl StatusCommand {
    pub(super) async fn run(self, operator: &Operator) -> Outcome {
        let mut observer = LeaseObserver::default();
        // An error of the leases is one of the problems in the report below.
        let _ = observe_leases(operator, &mut observer).await;
        let report = operator.status(&mut observer, self.limits.into()).await?;
        if self.output.is_json() {
            print_json(&report)?;
        } else {
            print(&report_text(&report))?;
        }
        Ok(report.healthy)
    }
}

impl ShardsCommand {
    pub(super) async fn run(self, operator: &Operator) -> Outcome {
        let mut leases = observe_leases(operator, &mut LeaseObserver::default()).await?;
        leases.retain(|lease| lease.kind != LeaseKind::Member);
        if !self.all {
            leases.retain(|lease| {
                !matches!(
                    lease.liveness,
                    Liveness::FullyConsumed | Liveness::NotInStream
                )
            });
        }
        if self.output.is_json() {
            print_json(&leases)?;
        } else if leases.is_empty() {
            print_notice(
                "no leases: no relay of this consumer group has read this stream yet; \
                 check RELAY_CONSUMER_GROUP and that a relay is running",
            );
        } else {
            print(&render(&lease_table(&leases)))?;
        }
        Ok(true)
    }
}

/// Reads the leases until the state of each is known, at most for a lease duration.
async fn observe_leases(
    operator: &Operator,
    observer: &mut LeaseObserver,
) -> Result<Vec<LeaseView>, crate::service::OperateError> {
    let spinner = spinner(format!(
        "waiting for the heartbeats of the leases, at most {}",
        humantime::format_duration(operator.lease_duration())
    ));
    let leases = operator.observe_leases(observer).await;
    spinner.finish_and_clear();
    leases
}

/// Returns the whole report for people.
pub(super) fn report_text(report: &StatusReport) -> String {
    let mut lines = vec![verdict(report)];
    for problem in &report.problems {
        lines.push(format!("  - {}", escape_controls(problem)));
    }
    lines.push(String::new());
    let oldest = report
        .oldest_pending_seconds
        .map_or_else(String::new, |age| {
            format!(", the oldest for {}", format_seconds(Some(age)))
        });
    let maintenance = report.sweeper.as_ref().map_or_else(
        || "no lease".to_owned(),
        |lease| format!("{} ({})", owner(lease), liveness_label(lease.liveness).0),
    );
    let alive = report
        .sweepers
        .iter()
        .filter(|lease| lease.liveness == Liveness::Alive);
    lines.extend([
        format!("pending      {}{oldest}", format_count(report.pending)),
        format!("deferred     {}", deferred(report)),
        format!("failed       {}", format_count(report.failed)),
        format!("lag          {}", format_seconds(report.lag_seconds)),
        format!("relays       {}", members(report)),
        format!("maintenance  {maintenance}"),
        format!(
            "sweepers     {} of {} alive",
            alive.count(),
            report.sweepers.len()
        ),
        format!(
            "shards       {} open, {} fully consumed or deleted; consumer group {}",
            report.shards.len(),
            report.shards_ended,
            report.consumer_group
        ),
    ]);
    if !report.shards.is_empty() {
        lines.push(String::new());
        lines.push(render(&lease_table(&report.shards)));
    }
    lines.join("\n")
}

/// Returns the deferred events by queue.
fn deferred(report: &StatusReport) -> String {
    if report.deferred.is_empty() {
        return "none".to_owned();
    }
    let counts: Vec<_> = report
        .deferred
        .iter()
        .map(|(queue, count)| format!("{count} for {}", single_line(queue, 128)))
        .collect();
    counts.join(", ")
}

fn members(report: &StatusReport) -> String {
    if report.members.is_empty() {
        return "none".to_owned();
    }
    let names: Vec<_> = report
        .members
        .iter()
        .map(|name| single_line(name, 128))
        .collect();
    names.join(", ")
}

/// Returns `healthy` or `UNHEALTHY`, in its colour.
pub(super) fn verdict(report: &StatusReport) -> String {
    if report.healthy {
        colored("healthy", Tone::Good)
    } else {
        colored("UNHEALTHY", Tone::Bad)
    }
}

/// Formats a number that may be a lower bound.
pub(super) fn format_count(count: Count) -> String {
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
        "REQUESTED BY",
    ]);
    for lease in leases {
        let (label, tone) = liveness_label(lease.liveness);
        table.add_row(vec![
            cell(&single_line(&lease.lease, 128), Tone::Neutral),
            cell(label, tone),
            cell(&owner(lease), Tone::Neutral),
            cell(&lease.epoch.to_string(), Tone::Neutral),
            cell(&format_seconds(lease.behind_seconds), Tone::Neutral),
            cell(&or_dash(lease.checkpoint.as_deref()), Tone::Neutral),
            cell(&or_dash(lease.requested_by.as_deref()), Tone::Neutral),
        ]);
    }
    table
}

fn owner(lease: &LeaseView) -> String {
    or_dash(lease.owner.as_deref())
}

fn or_dash(text: Option<&str>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| single_line(text, 128))
}

/// Returns the state of a lease for people, in the words of the console.
fn liveness_label(liveness: Liveness) -> (&'static str, Tone) {
    match liveness {
        Liveness::Alive => ("alive", Tone::Good),
        Liveness::Unknown => ("unknown", Tone::Neutral),
        Liveness::NoHeartbeat => ("no heartbeat", Tone::Bad),
        Liveness::NoOwner => ("no owner", Tone::Bad),
        Liveness::WaitsForParent => ("waits for parent", Tone::Neutral),
        Liveness::FullyConsumed => ("fully consumed", Tone::Neutral),
        Liveness::NotInStream => ("not in stream", Tone::Neutral),
        Liveness::Unreadable => ("unreadable", Tone::Bad),
    }
}
