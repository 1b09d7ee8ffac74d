//! `retry`, `discard` and `replay`.
//!
//! Each prints the result of every event that it tried to change before it ends, also after an
//! error or Ctrl-C.

use std::io::{self, IsTerminal, Write as _};

use clap::Args;
use outbox::Status;
use outbox_store::dynamodb::EventChange;
use outbox_store::{EventFilter, EventKey, EventState};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::list::{FilterOptions, parse_text};
use super::output::{
    OutputOptions, Tone, cell, print, print_json, print_notice, progress_bar, render, single_line,
    table_with_wide_column,
};
use super::{CommandError, Outcome, unless_stopped};
use crate::service::bulk::{Bulk, Tally};
use crate::service::lookup::MAX_HISTORY;
use crate::service::{Listing, OperateError, Operator};

/// Make failed events pending again, so that a relay publishes them by the
/// normal path and in their traces.
///
/// Safe to repeat and to run beside relays: an event changes only from FAILED
/// to PENDING, and is sent once for that change. An event that is already
/// pending or published stays as it is and counts as a success. The command
/// requests a sweep, which publishes the events at once.
#[derive(Clone, Debug, Args)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["names", "all_failed"])))]
pub struct RetryCommand {
    /// Event ids, or `<aggregate id>:<sequence>`.
    #[arg(value_name = "EVENT_ID", value_parser = parse_text)]
    names: Vec<String>,

    /// Retry all failed events, or those that match --since, --type and --reason.
    #[arg(long)]
    all_failed: bool,

    #[command(flatten)]
    filter: FilterOptions,

    #[command(flatten)]
    output: OutputOptions,
}

/// Discard failed or pending events for good: they are not sent any more. Their
/// items are kept, with the reason and without a time to live. The message of a
/// pending event that a relay is sending at this moment, or has handed to its
/// queue, may still arrive.
#[derive(Clone, Debug, Args)]
pub struct DiscardCommand {
    /// Event ids, or `<aggregate id>:<sequence>`.
    #[arg(value_name = "EVENT_ID", required = true, value_parser = parse_text)]
    names: Vec<String>,

    /// Reason, stored with the event (at most 1024 bytes). It is left out if
    /// the item would exceed DynamoDB's limit of 400 KB.
    #[arg(long, value_name = "TEXT", value_parser = parse_text)]
    reason: String,

    #[command(flatten)]
    output: OutputOptions,
}

/// Send the published events of an aggregate again, in order.
///
/// The `event_id` of a message stays the same, so a consumer that deduplicates
/// by it ignores the repeat. The message attribute `replay` is the number of
/// the replay, starting at 1. Failed and discarded events are not sent.
#[derive(Clone, Debug, Args)]
pub struct ReplayCommand {
    /// Aggregate whose events are sent.
    #[arg(long, value_name = "ID", value_parser = parse_text)]
    aggregate: String,

    /// First sequence to send.
    #[arg(long, value_name = "N", default_value_t = 1)]
    from_sequence: u64,

    /// Send without confirmation; required if standard input is not a terminal.
    #[arg(long, short)]
    yes: bool,

    #[command(flatten)]
    output: OutputOptions,
}

/// Result of a change of one event.
#[derive(Debug, Serialize)]
struct EventResult {
    /// The event as the command line names it.
    event: String,
    #[serde(flatten)]
    change: Option<EventChange>,
    /// Error, after which the event may or may not have changed.
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct EventResults {
    events: Vec<EventResult>,
}

#[derive(Debug, Serialize)]
struct BulkResult {
    #[serde(flatten)]
    tally: Tally,
    /// Error that ended the command early.
    problem: Option<String>,
}

impl RetryCommand {
    pub(super) async fn run(self, operator: &Operator, stop: &CancellationToken) -> Outcome {
        if self.all_failed {
            return self.run_all(operator, stop).await;
        }
        if !self.filter.is_empty() {
            return Err(CommandError::Usage(
                "--since, --type and --reason require --all-failed".to_owned(),
            ));
        }
        let retry = async |key| operator.retry(&key).await;
        let (events, ended) = change_each(operator, self.names, stop, retry).await;
        if events.iter().any(EventResult::is_changed) {
            request_sweep(operator).await;
        }
        let is_success =
            |event: &EventResult| event.has_status([Status::Pending, Status::Published]);
        let all_succeeded = events.iter().all(is_success);
        print_results(self.output, events, "retried")?;
        ended.map(|()| all_succeeded)
    }

    async fn run_all(self, operator: &Operator, stop: &CancellationToken) -> Outcome {
        let is_filtered = !self.filter.is_empty();
        let total = if is_filtered {
            None
        } else {
            let count = async { Ok(operator.count_failed().await?.count) };
            Some(unless_stopped(stop, count).await?)
        };
        let bar = progress_bar(total, "retrying");
        let bulk = operator
            .retry_failed(&self.filter.filter(), stop, |tally| {
                bar.set_position(tally.seen());
            })
            .await;
        bar.finish_and_clear();
        print_bulk_result(operator, self.output, bulk, "retried", "no longer failed").await
    }
}

impl DiscardCommand {
    pub(super) async fn run(self, operator: &Operator, stop: &CancellationToken) -> Outcome {
        let discard = async |key| operator.discard(&key, &self.reason).await;
        let (events, ended) = change_each(operator, self.names, stop, discard).await;
        // Later events of the aggregates may have waited for these.
        if events.iter().any(EventResult::is_changed) {
            request_sweep(operator).await;
        }
        let is_success = |event: &EventResult| event.has_status([Status::Discarded]);
        let all_succeeded = events.iter().all(is_success);
        print_results(self.output, events, "discarded")?;
        ended.map(|()| all_succeeded)
    }
}

impl ReplayCommand {
    pub(super) async fn run(self, operator: &Operator, stop: &CancellationToken) -> Outcome {
        if !unless_stopped(stop, self.is_confirmed(operator)).await? {
            return Ok(false);
        }
        let bar = progress_bar(None, "replaying");
        let bulk = operator
            .replay_aggregate(&self.aggregate, self.from_sequence, stop, |tally| {
                bar.set_position(tally.seen());
            })
            .await;
        bar.finish_and_clear();
        print_bulk_result(operator, self.output, bulk, "replayed", "not published").await
    }
}

impl ReplayCommand {
    /// Returns `true` if the operator confirms the replay, with `--yes` or on the terminal.
    /// Fails if the aggregate has no events.
    async fn is_confirmed(&self, operator: &Operator) -> Outcome {
        if operator.aggregate(&self.aggregate).await?.is_none() {
            let reason = format!("no event of aggregate `{}` exists", self.aggregate);
            return Err(OperateError::NotFound(reason).into());
        }
        if self.yes {
            return Ok(true);
        }
        confirm(self.confirmation_prompt(operator).await?).await
    }

    async fn confirmation_prompt(&self, operator: &Operator) -> Result<String, CommandError> {
        let published = EventFilter {
            state: Some(EventState::Published),
            aggregate_id: Some(self.aggregate.clone()),
            from_sequence: Some(self.from_sequence),
            ..EventFilter::default()
        };
        let Listing { events, next } = operator.list(&published, MAX_HISTORY, None).await?;
        let count = match (events.len(), next) {
            (1, None) => "1 published event".to_owned(),
            (count, None) => format!("{count} published events"),
            (count, Some(_)) => format!("{count} or more published events"),
        };
        Ok(format!(
            "Send {count} of aggregate `{}` again, starting at sequence {}?",
            single_line(&self.aggregate, 128),
            self.from_sequence,
        ))
    }
}

impl EventResult {
    fn is_changed(&self) -> bool {
        self.change.as_ref().is_some_and(|change| change.changed)
    }

    fn has_status<const N: usize>(&self, statuses: [Status; N]) -> bool {
        let change = self.change.as_ref();
        change.is_some_and(|change| statuses.iter().any(|status| change.is(*status)))
    }
}

/// Looks each event up and changes it. An event that does not exist, or whose item would become
/// too large, does not stop the others. Any other error and `stop` do: the results then end with
/// the last event that was tried.
async fn change_each(
    operator: &Operator,
    names: Vec<String>,
    stop: &CancellationToken,
    apply: impl AsyncFn(EventKey) -> Result<EventChange, OperateError>,
) -> (Vec<EventResult>, Result<(), CommandError>) {
    let mut events = Vec::new();
    for name in names {
        let find = async { Ok(operator.find(&name).await) };
        let change = match unless_stopped(stop, find).await {
            Ok(Ok(key)) => apply(key).await,
            Ok(Err(error)) => Err(error),
            Err(interrupted) => return (events, Err(interrupted)),
        };
        events.push(EventResult {
            event: name,
            change: change.as_ref().ok().cloned(),
            problem: change.as_ref().err().map(ToString::to_string),
        });
        match change {
            Ok(_) | Err(OperateError::NotFound(_) | OperateError::TooLarge(_)) => {}
            Err(error) => return (events, Err(error.into())),
        }
    }
    (events, Ok(()))
}

/// Prints the result of each event. `done` is the past participle of the change.
fn print_results(
    output: OutputOptions,
    events: Vec<EventResult>,
    done: &str,
) -> Result<(), CommandError> {
    if output.is_json() {
        return print_json(&EventResults { events });
    }
    let mut table = table_with_wide_column(&["EVENT", "RESULT"]);
    for event in &events {
        let (text, tone) = match (&event.change, &event.problem) {
            (Some(EventChange { changed: true, .. }), _) => (done.to_owned(), Tone::Good),
            (
                Some(EventChange {
                    status: Some(status),
                    ..
                }),
                _,
            ) => (format!("unchanged: the event is {status}"), Tone::Neutral),
            (_, Some(problem)) => (problem.clone(), Tone::Bad),
            _ => ("the event was deleted meanwhile".to_owned(), Tone::Bad),
        };
        table.add_row(vec![
            cell(&single_line(&event.event, 128), Tone::Neutral),
            cell(&single_line(&text, 300), tone),
        ]);
    }
    print(&render(&table))
}

/// Requests a sweep if an event was changed, and prints the counts: `done` is the past participle
/// of the change, `unchanged` describes the events that were left as they were.
async fn print_bulk_result(
    operator: &Operator,
    output: OutputOptions,
    bulk: Bulk,
    done: &str,
    unchanged: &str,
) -> Outcome {
    let Bulk { tally, stopped_by } = bulk;
    if tally.changed > 0 {
        request_sweep(operator).await;
    }
    if output.is_json() {
        print_json(&BulkResult {
            tally,
            problem: stopped_by.as_ref().map(ToString::to_string),
        })?;
    } else {
        let mut text = format!("{} {done}", tally.changed);
        if tally.unchanged > 0 {
            text.push_str(&format!(", {} {unchanged}", tally.unchanged));
        }
        if tally.too_large > 0 {
            text.push_str(&format!(", {} too large to be changed", tally.too_large));
        }
        print(&text)?;
    }
    match stopped_by {
        None => Ok(tally.too_large == 0),
        Some(stopped) => Err(stopped.into()),
    }
}

/// Requests a sweep, and prints a notice if that fails: the next regular sweep publishes the events
/// that were changed, and those that waited for them.
async fn request_sweep(operator: &Operator) {
    if let Err(error) = operator.request_sweep().await {
        print_notice(&format!(
            "cannot request a sweep; the next regular one (RELAY_SWEEP_INTERVAL) publishes the events that are due: {error}"
        ));
    }
}

/// Prompts for confirmation on the terminal. Fails if standard input or error is not a terminal.
pub(super) async fn confirm(prompt: String) -> Result<bool, CommandError> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(CommandError::Usage(
            "cannot ask for confirmation without a terminal: add --yes".to_owned(),
        ));
    }
    let answer = tokio::task::spawn_blocking(move || {
        eprint!("{prompt} [y/N] ");
        io::stderr().flush()?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        io::Result::Ok(answer)
    });
    match answer.await {
        Ok(Ok(answer)) => Ok(matches!(answer.trim(), "y" | "Y" | "yes")),
        Ok(Err(error)) => Err(CommandError::Usage(format!(
            "cannot read the confirmation: {error}; add --yes to skip it"
        ))),
        Err(_) => Err(CommandError::Interrupted),
    }
}
