//! `show`.

use clap::Args;
use outbox::timestamp::Timestamp;

use super::Outcome;
use super::list::{MAX_ID, MAX_NOTE, event_table, state, tone};
use super::output::{
    OutputOptions, colored, escape_controls, indent_json, print, print_json, single_line,
};
use crate::service::event::Step;
use crate::service::{AggregateState, AggregateView, EventDetail, EventView, Operator, Shown};

/// Show one event with its payload and history, or an aggregate's events.
#[derive(Clone, Debug, Args)]
pub struct ShowCommand {
    /// An event id, an aggregate id, or `<aggregate id>:<sequence>`.
    #[arg(value_name = "ID")]
    name: String,

    #[command(flatten)]
    output: OutputOptions,
}

impl ShowCommand {
    pub(super) async fn run(self, operator: &Operator) -> Outcome {
        let shown = operator.show(&self.name).await?;
        if self.output.is_json() {
            print_json(&shown)?;
            return Ok(true);
        }
        let text = match shown {
            Shown::Event(event) => event_text(&event),
            Shown::Aggregate(aggregate) => match aggregate.events.as_slice() {
                // The id of an order with a single event: show that event.
                [only] => match operator.event(&only.key()).await? {
                    Some(event) => event_text(&event),
                    None => aggregate_text(&aggregate),
                },
                _ => aggregate_text(&aggregate),
            },
        };
        print(&text)?;
        Ok(true)
    }
}

/// Returns an aggregate's state and the table of its events.
fn aggregate_text(aggregate: &AggregateView) -> String {
    let mut text = format!(
        "aggregate  {}\n",
        single_line(&aggregate.aggregate_id, MAX_ID)
    );
    if let Some(state) = &aggregate.state {
        text.push_str(&format!("now        {}\n", aggregate_state(state)));
    }
    if let Some(blocking) = &aggregate.blocked_by {
        text.push_str(&format!("blocked    {}\n", blocked_by(blocking)));
    }
    text.push('\n');
    text.push_str(&event_table(&aggregate.events));
    if aggregate.truncated {
        text.push_str("\nmore events exist: use `list --aggregate`");
    }
    text
}

/// Returns an event in full: attributes, history and payload.
fn event_text(shown: &EventDetail) -> String {
    let event = &shown.event;
    let escaped = |text: &Option<String>| {
        text.as_deref()
            .map(|text| escape_controls(text).into_owned())
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
        Some(escape_controls(&event.stored.event_id).into_owned()),
    );
    add("state", Some(colored(&state(event), tone(event))));
    add("blocked", shown.blocked_by.as_deref().map(blocked_by));
    add("failure", escaped(&event.stored.failure));
    add("malformed", escaped(&shown.malformed));
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
        Some(escape_controls(&event.stored.aggregate_id).into_owned()),
    );
    add("sequence", Some(event.stored.sequence.clone()));
    add("type", escaped(&event.stored.event_type));
    add("aggregate type", escaped(&event.stored.aggregate_type));
    add("index", escaped(&shown.state_bucket));
    add("message", escaped(&event.stored.message_id));
    add(
        "expires",
        shown
            .expires_at
            .map(|at| Timestamp::from_millis(at.saturating_mul(1000)).to_string()),
    );
    add("trace", event.stored.trace_id.clone());
    add("trace page", event.trace_url.clone());
    add("traceparent", escaped(&shown.traceparent));
    add("tracestate", escaped(&shown.tracestate));
    add("now", shown.aggregate.as_ref().map(aggregate_state));
    for (name, value) in &shown.other {
        add(
            &single_line(name, MAX_ID),
            Some(escape_controls(&value.to_string()).into_owned()),
        );
    }
    lines.push(String::new());
    lines.push("history".to_owned());
    for moment in &shown.timeline {
        let note = moment
            .note
            .as_deref()
            .map(|note| single_line(note, MAX_NOTE));
        lines.push(format!(
            "  {:<25} {:<10} {}",
            single_line(&moment.at, MAX_ID),
            step_name(moment.step),
            note.unwrap_or_default()
        ));
    }
    lines.push(String::new());
    match &shown.payload {
        Some(payload) => {
            lines.push(format!("payload, {} bytes", payload.len()));
            lines.push(indent_json(payload));
        }
        None => lines.push("the item has no payload".to_owned()),
    }
    let lines: Vec<_> = lines.iter().map(|line| line.trim_end()).collect();
    lines.join("\n")
}

/// Returns what blocks pending events, and how to end that.
fn blocked_by(failed: &EventView) -> String {
    let id = single_line(&failed.stored.event_id, MAX_ID);
    let since = failed.stored.failed_at.as_deref();
    let since = since.map_or_else(String::new, |at| {
        format!(" since {}", single_line(at, MAX_ID))
    });
    let reason = failed
        .stored
        .failure
        .as_deref()
        .unwrap_or("no reason is stored");
    format!(
        "by event {id}, which is FAILED{since}: {}; use `retry {id}` or `discard {id} --reason ...`",
        single_line(reason, MAX_NOTE)
    )
}

fn aggregate_state(state: &AggregateState) -> String {
    let text = match (&state.problem, &state.status, &state.updated_at) {
        (Some(problem), ..) => problem.clone(),
        (None, Some(status), Some(at)) => format!("{status} since {at} (table {})", state.table),
        (None, Some(status), None) => format!("{status} (table {})", state.table),
        (None, None, _) => format!(
            "the item in table {} has no attribute `status`",
            state.table
        ),
    };
    escape_controls(&text).into_owned()
}

fn step_name(step: Step) -> &'static str {
    match step {
        Step::Committed => "committed",
        Step::Deferred => "deferred",
        Step::Failed => "failed",
        Step::Retried => "retried",
        Step::Replayed => "replayed",
        Step::Published => "published",
        Step::Discarded => "discarded",
        Step::Processed => "processed",
    }
}
