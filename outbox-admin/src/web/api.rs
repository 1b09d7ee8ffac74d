//! What the page asks for and does.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, State as Shared};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use outbox::timestamp::Timestamp;
use outbox_store::dynamodb::EventChange;
use outbox_store::{EventFilter, EventKey, EventState, PageToken, TypePattern, is_number};
use serde::Deserialize;
use tokio::time::timeout;

use super::bounded_page::{PAGE, page};
use super::live::Live;
use super::problem::Problem;
use crate::service::{EventDetail, Listing, OperateError};

/// Bytes of an action's body: ids and a reason.
const MAX_BODY: usize = 16 * 1024;

/// Events in one answer at most.
const MAX_PAGE: usize = 500;

/// Bytes of a partition key in DynamoDB.
const MAX_ID: usize = 2_048;

/// Looking through all that is pending or failed, for an event with an id of its
/// own, takes as long as there is much of it.
const MAX_SEARCH: Duration = Duration::from_secs(5);

pub(super) fn router() -> Router<Arc<Live>> {
    Router::new()
        .route("/events", get(events))
        .route("/search", get(search))
        .route("/event", get(event))
        .route("/retry", post(retry))
        .route("/discard", post(discard))
        .layer(DefaultBodyLimit::max(MAX_BODY))
}

/// The state, and what narrows it down.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsQuery {
    state: String,
    #[serde(rename = "type")]
    event_type: Option<String>,
    /// RFC 3339.
    since: Option<String>,
    /// Text that the failure contains.
    reason: Option<String>,
    /// The `next` of an earlier answer.
    after: Option<String>,
    limit: Option<usize>,
}

/// Pending or failed events, a page at a time.
async fn events(
    Shared(live): Shared<Arc<Live>>,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Json<Listing>, Problem> {
    let Query(query) = query?;
    let state: EventState = parse("state", &query.state)?;
    if !matches!(state, EventState::Pending | EventState::Failed) {
        return Err(Problem::bad_request(
            "`state` must be pending or failed; settled events are found by their aggregate, with /api/search",
        ));
    }
    let limit = query.limit.unwrap_or(PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Problem::bad_request(format!(
            "`limit` must be from 1 to {MAX_PAGE}"
        )));
    }
    let filter = EventFilter {
        state: Some(state),
        newest_first: state == EventState::Failed,
        event_type: optional::<TypePattern>("type", query.event_type.as_deref())?,
        since: optional::<Timestamp>("since", query.since.as_deref())?,
        reason: query.reason.filter(|reason| !reason.is_empty()),
        ..EventFilter::default()
    };
    let after = optional::<PageToken>("after", query.after.as_deref())?;
    let listing = page(&live.operator, &filter, limit, after.as_ref()).await?;
    Ok(Json(listing))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SearchQuery {
    /// An aggregate's id, an event's, or `<aggregate id>:<sequence>`.
    q: String,
}

/// The events of an aggregate, or one event by its id, as [`Operator::find`] does.
///
/// [`Operator::find`]: crate::service::Operator::find
async fn search(
    Shared(live): Shared<Arc<Live>>,
    query: Result<Query<SearchQuery>, QueryRejection>,
) -> Result<Json<Listing>, Problem> {
    let Query(SearchQuery { q: name }) = query?;
    let name = name.trim();
    let filter = EventFilter {
        aggregate_id: Some(aggregate_id(name)?.to_owned()),
        ..EventFilter::default()
    };
    let mut listing = page(&live.operator, &filter, MAX_PAGE, None).await?;
    if listing.events.is_empty() {
        let found = timeout(MAX_SEARCH, live.operator.find(name)).await;
        let key = found.map_err(|_| {
            Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("`{name}` was not found in time among the pending and failed events; look for its aggregate"),
            )
        })??;
        let event = live.operator.event(&key).await?;
        let event = event.ok_or_else(|| no_event(&key))?;
        listing.events.push(event.event);
    }
    Ok(Json(listing))
}

/// Names an event.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EventName {
    aggregate_id: String,
    /// Decimal.
    sequence: String,
}

/// One event with everything that is known of it.
async fn event(
    Shared(live): Shared<Arc<Live>>,
    query: Result<Query<EventName>, QueryRejection>,
) -> Result<Json<EventDetail>, Problem> {
    let Query(name) = query?;
    let key = key(&name.aggregate_id, &name.sequence)?;
    let event = live.operator.event(&key).await?;
    event.map(Json).ok_or_else(|| no_event(&key))
}

fn no_event(key: &EventKey) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        format!(
            "there is no event {} of `{}`",
            key.sequence, key.aggregate_id
        ),
    )
}

/// What became of an event that there is.
fn found(acted: EventChange, key: &EventKey) -> Result<EventChange, Problem> {
    match acted.status {
        Some(_) => Ok(acted),
        None => Err(no_event(key)),
    }
}

/// Makes a failed event pending again.
async fn retry(
    Shared(live): Shared<Arc<Live>>,
    body: Result<Json<EventName>, JsonRejection>,
) -> Result<Json<EventChange>, Problem> {
    let Json(name) = body?;
    let key = key(&name.aggregate_id, &name.sequence)?;
    let acted = found(live.operator.retry(&key).await?, &key)?;
    if acted.changed {
        tracing::info!(
            aggregate_id = key.aggregate_id,
            sequence = key.sequence,
            "an event is retried, as an operator asked by the console"
        );
        if let Err(error) = live.operator.request_sweep().await {
            tracing::warn!(%error, "the sweeper could not be woken; it comes by itself");
        }
        live.look_soon();
    }
    Ok(Json(acted))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Discard {
    aggregate_id: String,
    sequence: String,
    reason: String,
}

/// Gives a failed event up.
async fn discard(
    Shared(live): Shared<Arc<Live>>,
    body: Result<Json<Discard>, JsonRejection>,
) -> Result<Json<EventChange>, Problem> {
    let Json(name) = body?;
    let key = key(&name.aggregate_id, &name.sequence)?;
    let reason = name.reason.trim();
    let acted = found(live.operator.discard(&key, reason).await?, &key)?;
    if acted.changed {
        tracing::warn!(
            aggregate_id = key.aggregate_id,
            sequence = key.sequence,
            "an event is discarded, as an operator asked by the console"
        );
        live.look_soon();
    }
    Ok(Json(acted))
}

fn key(id: &str, sequence: &str) -> Result<EventKey, Problem> {
    if !is_number(sequence) {
        return Err(Problem::bad_request(
            "`sequence` must be a number that DynamoDB can keep",
        ));
    }
    Ok(EventKey {
        aggregate_id: aggregate_id(id)?.to_owned(),
        sequence: sequence.to_owned(),
    })
}

fn aggregate_id(id: &str) -> Result<&str, Problem> {
    if (1..=MAX_ID).contains(&id.len()) {
        Ok(id)
    } else {
        Err(Problem::bad_request(format!(
            "an aggregate's id has 1 to {MAX_ID} bytes"
        )))
    }
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(
    name: &str,
    text: &str,
) -> Result<T, Problem> {
    text.parse()
        .map_err(|error| Problem::bad_request(format!("`{name}`: {error}")))
}

fn optional<T: std::str::FromStr<Err: std::fmt::Display>>(
    name: &str,
    text: Option<&str>,
) -> Result<Option<T>, Problem> {
    text.map(|text| parse(name, text)).transpose()
}

impl From<OperateError> for Problem {
    fn from(error: OperateError) -> Self {
        let status = match &error {
            OperateError::Invalid(_) => StatusCode::BAD_REQUEST,
            OperateError::NotFound(_) => StatusCode::NOT_FOUND,
            OperateError::TooLarge(_) => StatusCode::CONFLICT,
            OperateError::Refused(_) => StatusCode::BAD_GATEWAY,
            OperateError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}
