//! `list` and `show`.

use clap::Args;
use comfy_table::Row;
use outbox::timestamp::Timestamp;
use outbox_store::{EventFilter, EventState, PageToken, TypePattern};
use shared::runtime::service::parse_duration;

use super::output::{
    Mood, OutputOptions, cell, line, painted, pretty, print, print_json, remark, table_with_text,
    text_of, without_controls,
};
use super::{CommandError, Outcome};
use crate::service::event::Step;
use crate::service::{
    AggregateState, AggregateView, EventDetail, EventView, Listing, Operator, Shown,
};

/// Characters of a failure in a list; `show` has all of it.
const MAX_FAILURE: usize = 100;

/// Characters of an id in a list.
const MAX_ID: usize = 128;

/// List events: those that are pending or failed, the oldest first.
///
/// Published and discarded events are in no index: they are listed by
/// --aggregate, or by --scan, which reads the whole table. Of a long text a
/// list has the start; `show` has all of it.
#[derive(Clone, Debug, Args)]
pub struct ListCommand {
    /// Only events in this state: pending, failed, published or discarded.
    #[arg(long, value_name = "STATE")]
    state: Option<EventState>,

    /// Only events of this aggregate, by sequence.
    #[arg(long, value_name = "ID", value_parser = parse_text)]
    aggregate: Option<String>,

    #[command(flatten)]
    which: WhichOptions,

    /// The latest first.
    #[arg(long)]
    newest: bool,

    /// Read the whole table, in no order: it costs as much as it has items.
    #[arg(long, conflicts_with = "aggregate")]
    scan: bool,

    /// Events at most (1 to 10000).
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    limit: u16,

    /// Go on where an earlier list ended: its `next` in JSON.
    #[arg(long, value_name = "NEXT")]
    after: Option<PageToken>,

    #[command(flatten)]
    output: OutputOptions,
}

/// Which events, besides their state.
#[derive(Clone, Debug, Args)]
pub(super) struct WhichOptions {
    /// Only events that occurred since then: a time such as
    /// 2026-01-31T08:15:00Z, or how long ago, such as 15m.
    #[arg(long, value_name = "WHEN", value_parser = parse_since)]
    since: Option<Timestamp>,

    /// Only events of this type; a `*` at the end stands for anything.
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<TypePattern>,

    /// Only events whose failure contains this text.
    #[arg(long, value_name = "TEXT", value_parser = parse_text)]
    reason: Option<String>,
}

impl WhichOptions {
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

/// Show one event with its payload and history, or an aggregate's events.
#[derive(Clone, Debug, Args)]
pub struct ShowCommand {
    /// An event id, an aggregate id, or `<aggregate id>:<sequence>`.
    #[arg(value_name = "ID")]
    name: String,

    #[command(flatten)]
    output: OutputOptions,
}

impl ListCommand {
    pub(super) async fn run(self, operator: &Operator) -> Outcome {
        let limit = usize::from(self.limit);
        let filter = EventFilter {
            state: self.state,
            aggregate_id: self.aggregate,
            newest_first: self.newest,
            scan: self.scan,
            ..self.which.filter()
        };
        if filter.is_unindexed() {
            return Err(CommandError::Usage(
                "published and discarded events are in no index: add --aggregate ID, or --scan to read the whole table"
                    .to_owned(),
            ));
        }
        let mut listing = Listing {
            events: Vec::new(),
            next: self.after,
        };
        loop {
            let wanted = limit - listing.events.len();
            let more = operator
                .list(&filter, wanted, listing.next.as_ref())
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
            remark("no such events");
        } else {
            print(&rows(&listing.events))?;
            if listing.next.is_some() {
                remark(
                    "there are more: raise --limit, or go on with --after and the `next` of --output json",
                );
            }
        }
        Ok(true)
    }
}

impl ShowCommand {
    pub(super) async fn run(self, operator: &Operator) -> Outcome {
        let shown = operator.show(&self.name).await?;
        if self.output.is_json() {
            print_json(&shown)?;
            return Ok(true);
        }
        let text = match shown {
            Shown::Event(event) => detail(&event),
            Shown::Aggregate(aggregate) => match aggregate.events.as_slice() {
                // An order with one event: that is what is meant.
                [only] => match operator.event(&only.key()).await? {
                    Some(event) => detail(&event),
                    None => history(&aggregate),
                },
                _ => history(&aggregate),
            },
        };
        print(&text)?;
        Ok(true)
    }
}

/// A table of events.
pub(super) fn rows(events: &[EventView]) -> String {
    let mut table = table_with_text(&["EVENT", "STATE", "TYPE", "OCCURRED", "NOTE"]);
    for event in events {
        let mut row = Row::from(vec![
            cell(&line(&event.stored.event_id, MAX_ID), Mood::Neutral),
            cell(&state(event), mood(event)),
            cell(&short(event.stored.event_type.as_deref()), Mood::Neutral),
            cell(&short(event.stored.occurred_at.as_deref()), Mood::Neutral),
            cell(&note(event), Mood::Neutral),
        ]);
        row.max_height(1);
        table.add_row(row);
    }
    text_of(&table)
}

fn history(aggregate: &AggregateView) -> String {
    let mut text = format!("aggregate  {}\n", line(&aggregate.aggregate_id, MAX_ID));
    if let Some(state) = &aggregate.state {
        text.push_str(&format!("now        {}\n", aggregate_state(state)));
    }
    text.push('\n');
    text.push_str(&rows(&aggregate.events));
    if aggregate.truncated {
        text.push_str("\nthere are more: use `list --aggregate`");
    }
    text
}

fn detail(shown: &EventDetail) -> String {
    let event = &shown.event;
    let whole = |text: &Option<String>| {
        text.as_deref()
            .map(|text| without_controls(text).into_owned())
    };
    let mut lines = Vec::new();
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            lines.push(format!(
                "{name:<15}{}",
                value.replace('\n', "\n               ")
            ));
        }
    };
    add(
        "event",
        Some(without_controls(&event.stored.event_id).into_owned()),
    );
    add("state", Some(painted(&state(event), mood(event))));
    add("failure", whole(&event.stored.failure));
    add("malformed", whole(&shown.malformed));
    add(
        "attempts",
        event.stored.attempts.map(|count| count.to_string()),
    );
    add(
        "replays",
        event.stored.replays.map(|count| count.to_string()),
    );
    add(
        "aggregate",
        Some(without_controls(&event.stored.aggregate_id).into_owned()),
    );
    add("sequence", Some(event.stored.sequence.clone()));
    add("type", whole(&event.stored.event_type));
    add("aggregate type", whole(&event.stored.aggregate_type));
    add("index", whole(&shown.state_bucket));
    add("message", whole(&event.stored.message_id));
    add(
        "expires",
        shown
            .expires_at
            .map(|at| Timestamp::from_millis(at.saturating_mul(1000)).to_string()),
    );
    add("trace", event.stored.trace_id.clone());
    add("trace page", event.trace_url.clone());
    add("traceparent", whole(&shown.traceparent));
    add("tracestate", whole(&shown.tracestate));
    add("now", shown.aggregate.as_ref().map(aggregate_state));
    for (name, value) in &shown.other {
        add(
            &line(name, MAX_ID),
            Some(without_controls(&value.to_string()).into_owned()),
        );
    }
    lines.push(String::new());
    lines.push("history".to_owned());
    for moment in &shown.timeline {
        let note = moment.note.as_deref().map(|note| line(note, MAX_FAILURE));
        lines.push(format!(
            "  {:<25} {:<10} {}",
            line(&moment.at, MAX_ID),
            step(moment.step),
            note.unwrap_or_default()
        ));
    }
    lines.push(String::new());
    match &shown.payload {
        Some(payload) => {
            lines.push(format!("payload, {} bytes", payload.len()));
            lines.push(pretty(payload));
        }
        None => lines.push("no payload".to_owned()),
    }
    let lines: Vec<_> = lines.iter().map(|line| line.trim_end()).collect();
    lines.join("\n")
}

fn aggregate_state(state: &AggregateState) -> String {
    let text = match (&state.problem, &state.status, &state.updated_at) {
        (Some(problem), ..) => problem.clone(),
        (None, Some(status), Some(at)) => format!("{status} since {at} (table {})", state.table),
        (None, Some(status), None) => format!("{status} (table {})", state.table),
        (None, None, _) => format!("its item in table {} has no `status`", state.table),
    };
    without_controls(&text).into_owned()
}

fn state(event: &EventView) -> String {
    short(event.stored.status.as_deref())
}

fn mood(event: &EventView) -> Mood {
    match event.stored.status.as_deref() {
        Some("FAILED") => Mood::Bad,
        Some("PUBLISHED") => Mood::Good,
        _ => Mood::Neutral,
    }
}

/// What an operator wants to know besides the state.
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
        _ => event.stored.failure.clone(),
    };
    note.map(|note| line(&note, MAX_FAILURE))
        .unwrap_or_default()
}

fn step(step: Step) -> &'static str {
    match step {
        Step::Committed => "committed",
        Step::Failed => "failed",
        Step::Retried => "retried",
        Step::Replayed => "replayed",
        Step::Published => "published",
        Step::Discarded => "discarded",
        Step::Processed => "processed",
    }
}

fn short(text: Option<&str>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| line(text, MAX_ID))
}

/// DynamoDB refuses empty keys, and an empty text is in every failure.
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
        "must be a time such as 2026-01-31T08:15:00Z, or how long ago, such as 15m".to_owned()
    })?;
    let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
    Ok(Timestamp::from_millis(
        Timestamp::now().as_millis().saturating_sub(ago),
    ))
}
