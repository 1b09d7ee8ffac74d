//! `list`.

use clap::Args;
use comfy_table::Row;
use outbox::timestamp::Timestamp;
use outbox_store::{EventFilter, EventState, PageToken, TypePattern};
use shared::runtime::service::parse_duration;

use super::output::{
    OutputOptions, Tone, cell, print, print_json, print_notice, render, single_line,
    table_with_wide_column,
};
use super::{CommandError, Outcome};
use crate::service::{EventView, Listing, Operator};

/// Maximum characters of a failure in a list; `show` prints all of it.
pub(super) const MAX_NOTE: usize = 100;

/// Maximum characters of an id in a list.
pub(super) const MAX_ID: usize = 128;

/// List events; by default the pending and failed ones, the oldest first.
///
/// No index holds published and discarded events: list them with --aggregate,
/// or with --scan, which reads the whole table. Long texts are cut; `show`
/// prints them in full.
#[derive(Clone, Debug, Args)]
pub struct ListCommand {
    /// Only events in this state: pending, failed, published or discarded.
    #[arg(long, value_name = "STATE")]
    state: Option<EventState>,

    /// Only events of this aggregate, in the order of their sequence.
    #[arg(long, value_name = "ID", value_parser = parse_text)]
    aggregate: Option<String>,

    #[command(flatten)]
    filter: FilterOptions,

    /// List the newest events first.
    #[arg(long)]
    newest: bool,

    /// Read the whole table, in no order. The cost grows with the size of the table.
    #[arg(long, conflicts_with = "aggregate")]
    scan: bool,

    /// Maximum number of events (1 to 10000).
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    limit: u16,

    /// Continue after an earlier list: the value of `next` in its JSON output.
    #[arg(long, value_name = "NEXT")]
    after: Option<PageToken>,

    #[command(flatten)]
    output: OutputOptions,
}

/// Filters of events, in addition to their state.
#[derive(Clone, Debug, Args)]
pub(super) struct FilterOptions {
    /// Only events that occurred since a time such as 2026-01-31T08:15:00Z, or
    /// within a duration such as 15m.
    #[arg(long, value_name = "WHEN", value_parser = parse_since)]
    since: Option<Timestamp>,

    /// Only events of this type; a `*` at the end matches any rest.
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<TypePattern>,

    /// Only events whose failure contains this text.
    #[arg(long, value_name = "TEXT", value_parser = parse_text)]
    reason: Option<String>,
}

impl FilterOptions {
    pub(super) fn is_empty(&self) -> bool {
        self.since.is_none() && self.event_type.is_none() && self.reason.is_none()
    }

    pub(super) fn filter(self) -> EventFilter {
        EventFilter {
            since: self.since,
            event_type: self.event_type,
            reason: self.reason,
            ..EventFilter::default()
        }
    }
}

impl ListCommand {
    pub(super) async fn run(self, operator: &Operator) -> Outcome {
        let limit = usize::from(self.limit);
        let filter = EventFilter {
            state: self.state,
            aggregate_id: self.aggregate,
            newest_first: self.newest,
            scan: self.scan,
            ..self.filter.filter()
        };
        if filter.is_unindexed() {
            return Err(CommandError::Usage(
                "no index holds published and discarded events: add --aggregate ID, or --scan to read the whole table"
                    .to_owned(),
            ));
        }
        let mut listing = Listing {
            events: Vec::new(),
            next: self.after,
        };
        loop {
            let missing = limit - listing.events.len();
            let more = operator
                .list(&filter, missing, listing.next.as_ref())
                .await?;
            listing.events.extend(more.events);
            listing.next = more.next;
            if listing.next.is_none() || listing.events.len() >= limit {
                break;
            }
        }
        if self.output.is_json() {
            print_json(&listing)?;
        } else if listing.events.is_empty() {
            print_notice("no event matches");
        } else {
            print(&event_table(&listing.events))?;
            if listing.next.is_some() {
                print_notice(
                    "more events match: raise --limit, or continue with --after and the `next` of --output json",
                );
            }
        }
        Ok(true)
    }
}

/// Returns a table of events, each on one line.
pub(super) fn event_table(events: &[EventView]) -> String {
    let mut table = table_with_wide_column(&["EVENT", "STATE", "TYPE", "OCCURRED", "NOTE"]);
    for event in events {
        let mut row = Row::from(vec![
            cell(&single_line(&event.stored.event_id, MAX_ID), Tone::Neutral),
            cell(&state(event), tone(event)),
            cell(&or_dash(event.stored.event_type.as_deref()), Tone::Neutral),
            cell(&or_dash(event.stored.occurred_at.as_deref()), Tone::Neutral),
            cell(&note(event), Tone::Neutral),
        ]);
        row.max_height(1);
        table.add_row(row);
    }
    render(&table)
}

pub(super) fn state(event: &EventView) -> String {
    or_dash(event.stored.status.as_deref())
}

pub(super) fn tone(event: &EventView) -> Tone {
    match event.stored.status.as_deref() {
        Some("FAILED") => Tone::Bad,
        Some("PUBLISHED") => Tone::Good,
        _ => Tone::Neutral,
    }
}

/// Returns what explains the state of an event: a failure, a reason or a replay.
fn note(event: &EventView) -> String {
    let note = match event.stored.status.as_deref() {
        Some("DISCARDED") => event.stored.discard_reason.clone(),
        Some("PUBLISHED") => event.stored.replays.map(|count| format!("replay {count}")),
        Some("PENDING")
            if event.stored.retried_at.is_some() || event.stored.replayed_at.is_some() =>
        {
            let at = event
                .stored
                .retried_at
                .as_ref()
                .max(event.stored.replayed_at.as_ref());
            at.map(|at| format!("made pending again at {at}"))
        }
        Some("PENDING") if event.stored.deferred_at.is_some() => {
            let at = event.stored.deferred_at.as_ref();
            at.map(|at| {
                format!(
                    "deferred at {at}: its queue is unavailable, or it waits for an earlier event"
                )
            })
        }
        _ => event.stored.failure.clone(),
    };
    note.map(|note| single_line(&note, MAX_NOTE))
        .unwrap_or_default()
}

fn or_dash(text: Option<&str>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| single_line(text, MAX_ID))
}

/// Rejects blank text: DynamoDB rejects empty keys, and every failure contains an empty text.
pub(super) fn parse_text(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("must not be empty".to_owned());
    }
    Ok(text.to_owned())
}

fn parse_since(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    let ago = parse_duration(text).map_err(|_| {
        "must be a time such as 2026-01-31T08:15:00Z or a duration such as 15m".to_owned()
    })?;
    let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
    Ok(Timestamp::from_millis(
        Timestamp::now().as_millis().saturating_sub(ago),
    ))
}
