//! `retry`, `discard` and `replay`.

use std::io::{self, IsTerminal, Write as _};

use clap::Args;
use serde::Serialize;
use shared::outbox::Status;

use super::events::{WhichOptions, parse_text};
use super::output::{
    Mood, OutputOptions, cell, line, print, print_json, progress, remark, table_with_text, text_of,
};
use super::{CommandError, Outcome};
use crate::operate::bulk::{Bulk, Tally};
use crate::operate::show::MAX_HISTORY;
use crate::operate::{Acted, Filter, Listing, OperateError, Operator, State};
use crate::ports::EventKey;

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
    #[arg(value_name = "EVENT_ID")]
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
    #[arg(value_name = "EVENT_ID", required = true)]
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
    acted: Option<Acted>,
    /// Why nothing became of it.
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
    pub(super) async fn run(self, operator: &Operator) -> Outcome {
        if self.all_failed {
            return self.run_all(operator).await;
        }
        if !self.filter.is_empty() {
            return Err(CommandError::Usage(
                "--since, --type and --reason are for --all-failed".to_owned(),
            ));
        }
        let mut events = Vec::new();
        let mut is_done = true;
        for name in self.names {
            let acted = named(operator, name, async |key| operator.retry(&key).await).await?;
            is_done &= acted.is([Status::Pending, Status::Published]);
            events.push(acted);
        }
        if events.iter().any(Named::changed) {
            ask_for_sweep(operator).await;
        }
        report(self.output, events, "retried")?;
        Ok(is_done)
    }

    async fn run_all(self, operator: &Operator) -> Outcome {
        let is_filtered = !self.filter.is_empty();
        let total = if is_filtered {
            None
        } else {
            Some(operator.count_failed().await?.count)
        };
        let bar = progress(total, "retrying");
        let bulk = operator
            .retry_failed(&self.filter.filter(), |tally| {
                bar.set_position(tally.seen())
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
    pub(super) async fn run(self, operator: &Operator) -> Outcome {
        let mut events = Vec::new();
        let mut is_done = true;
        for name in self.names {
            let reason = &self.reason;
            let discard = async |key| operator.discard(&key, reason).await;
            let acted = named(operator, name, discard).await?;
            is_done &= acted.is([Status::Discarded]);
            events.push(acted);
        }
        report(self.output, events, "discarded")?;
        Ok(is_done)
    }
}

impl ReplayCommand {
    pub(super) async fn run(self, operator: &Operator) -> Outcome {
        if operator.aggregate(&self.aggregate).await?.is_none() {
            let reason = format!("there are no events of an aggregate `{}`", self.aggregate);
            return Err(OperateError::NotFound(reason).into());
        }
        if !self.yes {
            let question = self.question(operator).await?;
            if !confirmed(question).await? {
                return Ok(false);
            }
        }
        let bar = progress(None, "replaying");
        let bulk = operator
            .replay_aggregate(&self.aggregate, self.from_sequence, |tally| {
                bar.set_position(tally.seen());
            })
            .await;
        bar.finish_and_clear();
        finish(operator, self.output, bulk, "replayed", "not published").await
    }
}

impl ReplayCommand {
    async fn question(&self, operator: &Operator) -> Result<String, CommandError> {
        let published = Filter {
            state: Some(State::Published),
            aggregate_id: Some(self.aggregate.clone()),
            from_sequence: Some(self.from_sequence),
            ..Filter::default()
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

/// Finds an event and acts on it. That there is none is no reason to leave the
/// others alone; that DynamoDB is away is.
async fn named(
    operator: &Operator,
    name: String,
    act: impl AsyncFnOnce(EventKey) -> Result<Acted, OperateError>,
) -> Result<Named, CommandError> {
    let found = match operator.find(&name).await {
        Ok(key) => act(key).await,
        Err(error) => Err(error),
    };
    match found {
        Ok(acted) => Ok(Named {
            event: name,
            acted: Some(acted),
            problem: None,
        }),
        Err(OperateError::NotFound(problem)) => Ok(Named {
            event: name,
            acted: None,
            problem: Some(problem),
        }),
        Err(error) => Err(error.into()),
    }
}

fn report(output: OutputOptions, events: Vec<Named>, done: &str) -> Result<(), CommandError> {
    if output.is_json() {
        return print_json(&NamedResult { events });
    }
    let mut table = table_with_text(&["EVENT", "RESULT"]);
    for event in &events {
        let (text, mood) = match (&event.acted, &event.problem) {
            (Some(Acted { changed: true, .. }), _) => (done.to_owned(), Mood::Good),
            (
                Some(Acted {
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
        print(&text)?;
    }
    match stopped_by {
        None => Ok(true),
        Some(error) => Err(error.into()),
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
