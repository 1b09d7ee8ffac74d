//! `retry`, `discard` and `replay`.

use std::io::{self, IsTerminal, Write as _};

use clap::Args;
use outbox::Status;
use outbox_store::dynamodb::EventChange;
use outbox_store::{EventFilter, EventKey, EventState};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::events::{WhichOptions, parse_text};
use super::output::{
    Mood, OutputOptions, cell, line, print, print_json, progress, remark, table_with_text, text_of,
};
use super::{CommandError, Outcome, unless_stopped};
use crate::service::bulk::{Bulk, Tally};
use crate::service::lookup::MAX_HISTORY;
use crate::service::{Listing, OperateError, Operator};

/// Make failed events pending again, to be published by the normal path with
/// their traces.
///
/// Safe to run twice and while relays run: each event changes only from FAILED
/// to PENDING, and is sent once for that. An event that is pending or
/// published already is left as it is, and counts as done. The relay that
/// sweeps is asked to do so at once.
#[derive(Clone, Debug, Args)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["names", "all_failed"])))]
pub struct RetryCommand {
    /// Event ids, or `<aggregate id>:<sequence>`.
    #[arg(value_name = "EVENT_ID", value_parser = parse_text)]
    names: Vec<String>,

    /// All failed events; with --since, --type and --reason, those of them.
    #[arg(long)]
    all_failed: bool,

    #[command(flatten)]
    filter: WhichOptions,

    #[command(flatten)]
    output: OutputOptions,
}

/// Give failed events up for good: they are kept with the reason, never sent
/// and not deleted by time.
#[derive(Clone, Debug, Args)]
pub struct DiscardCommand {
    /// Event ids, or `<aggregate id>:<sequence>`.
    #[arg(value_name = "EVENT_ID", required = true, value_parser = parse_text)]
    names: Vec<String>,

    /// Why, for those who ask later (at most 1024 bytes; not kept of an event
    /// that has no room for it within DynamoDB's 400 KB).
    #[arg(long, value_name = "TEXT", value_parser = parse_text)]
    reason: String,

    #[command(flatten)]
    output: OutputOptions,
}

/// Send an aggregate's published events again, on purpose and in order.
///
/// Each message has the attribute `replay` with the how-manyth time it is, as
/// its `event_id` is the same: a consumer that deduplicates by that ignores
/// it. Failed and discarded events are left out.
#[derive(Clone, Debug, Args)]
pub struct ReplayCommand {
    /// The aggregate whose events are sent.
    #[arg(long, value_name = "ID", value_parser = parse_text)]
    aggregate: String,

    /// Only events from this sequence on.
    #[arg(long, value_name = "N", default_value_t = 1)]
    from_sequence: u64,

    /// Do not ask; needed where there is no terminal to ask on.
    #[arg(long, short)]
    yes: bool,

    #[command(flatten)]
    output: OutputOptions,
}

/// One event by the name it was given, and what became of it.
#[derive(Debug, Serialize)]
struct Named {
    event: String,
    #[serde(flatten)]
    acted: Option<EventChange>,
    /// Why nothing is known to have become of it.
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct NamedResult {
    events: Vec<Named>,
}

#[derive(Debug, Serialize)]
struct BulkResult {
    #[serde(flatten)]
    tally: Tally,
    /// Why it ended early.
    problem: Option<String>,
}

impl RetryCommand {
    pub(super) async fn run(self, operator: &Operator, stop: &CancellationToken) -> Outcome {
        if self.all_failed {
            return self.run_all(operator, stop).await;
        }
        if !self.filter.is_empty() {
            return Err(CommandError::Usage(
                "--since, --type and --reason are for --all-failed".to_owned(),
            ));
        }
        let retry = async |key| operator.retry(&key).await;
        let (events, ended) = act_on(operator, self.names, stop, retry).await;
        if events.iter().any(Named::changed) {
            ask_for_sweep(operator).await;
        }
        let is_done = |event: &Named| event.is([Status::Pending, Status::Published]);
        let are_done = events.iter().all(is_done);
        report(self.output, events, "retried")?;
        ended.map(|()| are_done)
    }

    async fn run_all(self, operator: &Operator, stop: &CancellationToken) -> Outcome {
        let is_filtered = !self.filter.is_empty();
        let total = if is_filtered {
            None
        } else {
            let count = async { Ok(operator.count_failed().await?.count) };
            Some(unless_stopped(stop, count).await?)
        };
        let bar = progress(total, "retrying");
        let bulk = operator
            .retry_failed(&self.filter.filter(), stop, |tally| {
                bar.set_position(tally.seen());
            })
            .await;
        bar.finish_and_clear();
        finish(
            operator,
            self.output,
            bulk,
            "retried",
            "not failed any more",
        )
        .await
    }
}

impl DiscardCommand {
    pub(super) async fn run(self, operator: &Operator, stop: &CancellationToken) -> Outcome {
        let discard = async |key| operator.discard(&key, &self.reason).await;
        let (events, ended) = act_on(operator, self.names, stop, discard).await;
        let are_done = events.iter().all(|event| event.is([Status::Discarded]));
        report(self.output, events, "discarded")?;
        ended.map(|()| are_done)
    }
}

impl ReplayCommand {
    pub(super) async fn run(self, operator: &Operator, stop: &CancellationToken) -> Outcome {
        if !unless_stopped(stop, self.is_wanted(operator)).await? {
            return Ok(false);
        }
        let bar = progress(None, "replaying");
        let bulk = operator
            .replay_aggregate(&self.aggregate, self.from_sequence, stop, |tally| {
                bar.set_position(tally.seen());
            })
            .await;
        bar.finish_and_clear();
        finish(operator, self.output, bulk, "replayed", "not published").await
    }
}

impl ReplayCommand {
    /// Whether there is something to replay, and the operator means it.
    async fn is_wanted(&self, operator: &Operator) -> Outcome {
        if operator.aggregate(&self.aggregate).await?.is_none() {
            let reason = format!("there are no events of an aggregate `{}`", self.aggregate);
            return Err(OperateError::NotFound(reason).into());
        }
        if self.yes {
            return Ok(true);
        }
        confirmed(self.question(operator).await?).await
    }

    async fn question(&self, operator: &Operator) -> Result<String, CommandError> {
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
            "Send {count} of `{}` from sequence {} on again?",
            line(&self.aggregate, 128),
            self.from_sequence,
        ))
    }
}

impl Named {
    fn changed(&self) -> bool {
        self.acted.as_ref().is_some_and(|acted| acted.changed)
    }

    fn is<const N: usize>(&self, statuses: [Status; N]) -> bool {
        let acted = self.acted.as_ref();
        acted.is_some_and(|acted| statuses.iter().any(|status| acted.is(*status)))
    }
}

/// Finds each event and acts on it. That there is none, or that it has no room
/// for the change, is no reason to leave the others alone; that DynamoDB is away
/// is, and so is `stop`: those that come later are not told of.
async fn act_on(
    operator: &Operator,
    names: Vec<String>,
    stop: &CancellationToken,
    act: impl AsyncFn(EventKey) -> Result<EventChange, OperateError>,
) -> (Vec<Named>, Result<(), CommandError>) {
    let mut events = Vec::new();
    for name in names {
        let find = async { Ok(operator.find(&name).await) };
        let acted = match unless_stopped(stop, find).await {
            Ok(Ok(key)) => act(key).await,
            Ok(Err(error)) => Err(error),
            Err(interrupted) => return (events, Err(interrupted)),
        };
        events.push(Named {
            event: name,
            acted: acted.as_ref().ok().cloned(),
            problem: acted.as_ref().err().map(ToString::to_string),
        });
        match acted {
            Ok(_) | Err(OperateError::NotFound(_) | OperateError::TooLarge(_)) => {}
            Err(error) => return (events, Err(error.into())),
        }
    }
    (events, Ok(()))
}

fn report(output: OutputOptions, events: Vec<Named>, done: &str) -> Result<(), CommandError> {
    if output.is_json() {
        return print_json(&NamedResult { events });
    }
    let mut table = table_with_text(&["EVENT", "RESULT"]);
    for event in &events {
        let (text, mood) = match (&event.acted, &event.problem) {
            (Some(EventChange { changed: true, .. }), _) => (done.to_owned(), Mood::Good),
            (
                Some(EventChange {
                    status: Some(status),
                    ..
                }),
                _,
            ) => (format!("unchanged: it is {status}"), Mood::Neutral),
            (_, Some(problem)) => (problem.clone(), Mood::Bad),
            _ => ("it is gone".to_owned(), Mood::Bad),
        };
        table.add_row(vec![
            cell(&line(&event.event, 128), Mood::Neutral),
            cell(&line(&text, 300), mood),
        ]);
    }
    print(&text_of(&table))
}

async fn finish(
    operator: &Operator,
    output: OutputOptions,
    bulk: Bulk,
    done: &str,
    others: &str,
) -> Outcome {
    let Bulk { tally, stopped_by } = bulk;
    if tally.changed > 0 {
        ask_for_sweep(operator).await;
    }
    if output.is_json() {
        print_json(&BulkResult {
            tally,
            problem: stopped_by.as_ref().map(ToString::to_string),
        })?;
    } else {
        let mut text = format!("{} {done}", tally.changed);
        if tally.unchanged > 0 {
            text.push_str(&format!(", {} {others}", tally.unchanged));
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

/// The events are pending already: without the request they only wait longer.
async fn ask_for_sweep(operator: &Operator) {
    if let Err(error) = operator.request_sweep().await {
        remark(&format!(
            "the relay could not be asked to sweep now, so it does at its next turn (RELAY_SWEEP_INTERVAL): {error}"
        ));
    }
}

/// Asks on the terminal; without one the answer must be given beforehand.
async fn confirmed(question: String) -> Result<bool, CommandError> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(CommandError::Usage(
            "there is no terminal to ask on: say --yes".to_owned(),
        ));
    }
    let answer = tokio::task::spawn_blocking(move || {
        eprint!("{question} [y/N] ");
        io::stderr().flush()?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        io::Result::Ok(answer)
    });
    match answer.await {
        Ok(Ok(answer)) => Ok(matches!(answer.trim(), "y" | "Y" | "yes")),
        Ok(Err(error)) => Err(CommandError::Usage(format!(
            "no answer could be read: {error}"
        ))),
        Err(_) => Err(CommandError::Interrupted),
    }
}
