//! `dlq list`, `dlq redrive` and `dlq discard`.

use std::collections::HashSet;

use clap::{Args, Subcommand};
use tokio_util::sync::CancellationToken;

use super::list::parse_text;
use super::output::{
    OutputOptions, Tone, cell, print, print_json, print_notice, progress_bar, render, single_line,
    table_with_wide_column,
};
use super::{CommandError, Outcome, change, unless_stopped};
use crate::service::Operator;
use crate::service::dead_letters::{DeadLetter, DeadLetterAction, DeadLetterChange, Selection};

/// Maximum characters of an id in a list.
const MAX_ID: usize = 128;

/// Show and change the dead letters of the queues that RELAY_ROUTES names:
/// messages that their consumers did not delete within the queue's number of
/// receives.
///
/// Their events were published; the outbox table does not change.
///
/// While a message of a FIFO queue is hidden, SQS returns no later message of
/// its group: only the first messages of a group are found at a time.
#[derive(Clone, Debug, Args)]
pub struct DlqCommand {
    #[command(subcommand)]
    action: DlqAction,
}

#[derive(Clone, Debug, Subcommand)]
enum DlqAction {
    List(ListCommand),
    Redrive(RedriveCommand),
    Discard(DiscardCommand),
}

/// List dead letters, the oldest first.
///
/// SQS has no request that lists messages: they are received, and are hidden
/// from others until the command ends, or for two minutes if it is interrupted.
/// Their receive counts grow.
#[derive(Clone, Debug, Args)]
struct ListCommand {
    /// Maximum number of messages of each queue (1 to 10000).
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    limit: u16,

    #[command(flatten)]
    output: OutputOptions,
}

/// Send dead letters to the queue that they came from, and delete them from the
/// dead-letter queue. A message keeps its body and its attributes, so that its
/// trace continues.
///
/// If the command is interrupted, a message may be in both queues; a consumer
/// handles an event that it receives twice.
#[derive(Clone, Debug, Args)]
struct RedriveCommand {
    #[command(flatten)]
    which: Which,

    #[command(flatten)]
    output: OutputOptions,
}

/// Delete dead letters for good. The events stay in the outbox table, and can
/// be sent again with `replay`.
#[derive(Clone, Debug, Args)]
struct DiscardCommand {
    #[command(flatten)]
    which: Which,

    /// Discard all without confirmation; required if standard input is not a terminal.
    #[arg(long, short, requires = "all")]
    yes: bool,

    #[command(flatten)]
    output: OutputOptions,
}

#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// Ids of messages or of events.
    #[arg(value_name = "ID", value_parser = parse_text)]
    ids: Vec<String>,

    /// All dead letters.
    #[arg(long)]
    all: bool,
}

impl Which {
    fn selection(&self) -> Selection {
        match self.all {
            true => Selection::All,
            false => Selection::Ids(self.ids.iter().cloned().collect()),
        }
    }

    /// Returns the ids that no changed message has.
    fn missing(&self, changed: &[DeadLetter]) -> Vec<&String> {
        let found: HashSet<&String> = changed
            .iter()
            .flat_map(|letter| [Some(&letter.message_id), letter.event_id.as_ref()])
            .flatten()
            .collect();
        let ids = self.ids.iter();
        ids.filter(|id| !found.contains(id)).collect()
    }
}

impl DlqCommand {
    pub(super) async fn run(self, operator: &Operator, stop: &CancellationToken) -> Outcome {
        match self.action {
            DlqAction::List(command) => unless_stopped(stop, command.run(operator)).await,
            DlqAction::Redrive(RedriveCommand { which, output }) => {
                let action = DeadLetterAction::Redrive;
                apply(operator, action, &which, output, stop).await
            }
            DlqAction::Discard(DiscardCommand { which, yes, output }) => {
                let prompt = "Delete all dead letters for good?".to_owned();
                if which.all && !yes && !change::confirm(prompt).await? {
                    return Ok(false);
                }
                let action = DeadLetterAction::Discard;
                apply(operator, action, &which, output, stop).await
            }
        }
    }
}

impl ListCommand {
    async fn run(self, operator: &Operator) -> Outcome {
        let listing = operator.dead_letters(usize::from(self.limit)).await?;
        if self.output.is_json() {
            print_json(&listing)?;
            return Ok(true);
        }
        for queue in &listing.without {
            print_notice(&format!("queue `{queue}` has no dead-letter queue"));
        }
        if listing.messages.is_empty() {
            print_notice("no dead letters");
            return Ok(true);
        }
        print(&letter_table(&listing.messages))?;
        if listing.truncated {
            print_notice(
                "more messages may exist: raise --limit, or redrive or discard some of these",
            );
        }
        Ok(true)
    }
}

fn letter_table(letters: &[DeadLetter]) -> String {
    let mut table =
        table_with_wide_column(&["MESSAGE", "EVENT", "TYPE", "SENT", "RECEIVES", "TRACE"]);
    let or_dash = |text: &Option<String>| match text {
        Some(text) => single_line(text, MAX_ID),
        None => "-".to_owned(),
    };
    for letter in letters {
        let sent = letter.sent_at.map(|at| at.to_string());
        table.add_row(vec![
            cell(&single_line(&letter.message_id, MAX_ID), Tone::Neutral),
            cell(&or_dash(&letter.event_id), Tone::Neutral),
            cell(&or_dash(&letter.event_type), Tone::Neutral),
            cell(&or_dash(&sent), Tone::Neutral),
            cell(&letter.receive_count.to_string(), Tone::Neutral),
            cell(&or_dash(&letter.trace_id), Tone::Neutral),
        ]);
    }
    render(&table)
}

/// Changes the selected messages, and prints what was changed, also after an error or Ctrl-C.
async fn apply(
    operator: &Operator,
    action: DeadLetterAction,
    which: &Which,
    output: OutputOptions,
    stop: &CancellationToken,
) -> Outcome {
    let (doing, done) = match action {
        DeadLetterAction::Redrive => ("redriving", "redriven"),
        DeadLetterAction::Discard => ("discarding", "discarded"),
    };
    let bar = progress_bar(None, doing);
    let changed = operator
        .change_dead_letters(action, &which.selection(), stop, |count| {
            bar.set_position(u64::try_from(count).unwrap_or(u64::MAX));
        })
        .await;
    bar.finish_and_clear();
    let change: DeadLetterChange = changed?;
    let missing = which.missing(&change.changed);
    if output.is_json() {
        print_json(&change)?;
    } else {
        print(&format!("{} {done}", change.changed.len()))?;
    }
    for problem in &change.problems {
        print_notice(problem);
    }
    for id in &missing {
        print_notice(&format!(
            "no dead letter `{}` was found; if another command or the console reads the queue, try again",
            single_line(id, MAX_ID)
        ));
    }
    if change.interrupted {
        return Err(CommandError::Interrupted);
    }
    Ok(missing.is_empty() && change.problems.is_empty())
}
