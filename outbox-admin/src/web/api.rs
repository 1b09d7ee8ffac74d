//! Queries and actions of the page.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, State as Shared};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use outbox::timestamp::Timestamp;
use outbox_store::dynamodb::EventChange;
use outbox_store::{EventFilter, EventKey, EventState, PageToken, TypePattern, is_number};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::access::Actor;
use super::bounded_page::{PAGE_SIZE, list_page};
use super::live::Live;
use super::problem::Problem;
use crate::service::{EventDetail, EventView, Listing, OperateError};

/// Maximum bytes of the body of an action, which has ids and a reason.
const MAX_BODY: usize = 16 * 1024;

/// Maximum events in one response.
const MAX_PAGE_SIZE: usize = 500;

/// Maximum bytes of a partition key in DynamoDB.
const MAX_ID: usize = 2_048;

/// Time limit of a search for an event with an id of its own. It reads all pending and failed
/// events, so its duration grows with their number.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn router() -> Router<Arc<Live>> {
    Router::new()
        .route("/events", get(events))
        .route("/search", get(search))
        .route("/event", get(event))
        .route("/retry", post(retry))
        .route("/discard", post(discard))
        .layer(DefaultBodyLimit::max(MAX_BODY))
}

/// State of the listed events, and filters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsQuery {
    state: String,
    #[serde(rename = "type")]
    event_type: Option<String>,
    /// RFC 3339.
    since: Option<String>,
    /// Text that the failure must contain.
    reason: Option<String>,
    /// Page token: the `next` of an earlier response.
    after: Option<String>,
    limit: Option<usize>,
}

/// Lists a page of pending or failed events.
async fn events(
    Shared(live): Shared<Arc<Live>>,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Json<Listing>, Problem> {
    let Query(query) = query?;
    let state: EventState = parse("state", &query.state)?;
    if !matches!(state, EventState::Pending | EventState::Failed) {
        return Err(Problem::bad_request(
            "`state` must be pending or failed; find settled events by their aggregate, with /api/search",
        ));
    }
    let limit = query.limit.unwrap_or(PAGE_SIZE);
    if !(1..=MAX_PAGE_SIZE).contains(&limit) {
        return Err(Problem::bad_request(format!(
            "`limit` must be from 1 to {MAX_PAGE_SIZE}"
        )));
    }
    let filter = EventFilter {
        state: Some(state),
        newest_first: state == EventState::Failed,
        event_type: parse_optional::<TypePattern>("type", query.event_type.as_deref())?,
        since: parse_optional::<Timestamp>("since", query.since.as_deref())?,
        reason: query.reason.filter(|reason| !reason.is_empty()),
        ..EventFilter::default()
    };
    let after = parse_optional::<PageToken>("after", query.after.as_deref())?;
    let listing = list_page(&live.operator, &filter, limit, after.as_ref()).await?;
    Ok(Json(listing))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SearchQuery {
    /// An aggregate id, an event id, or `<aggregate id>:<sequence>`.
    q: String,
}

/// Result of a search.
#[derive(Debug, Serialize)]
struct Found {
    #[serde(flatten)]
    listing: Listing,
    /// The failed event that blocks pending events of the aggregate that was searched for.
    blocked_by: Option<Box<EventView>>,
}

/// Returns the events of an aggregate, or one event by its id, as [`Operator::find`] does.
///
/// [`Operator::find`]: crate::service::Operator::find
async fn search(
    Shared(live): Shared<Arc<Live>>,
    query: Result<Query<SearchQuery>, QueryRejection>,
) -> Result<Json<Found>, Problem> {
    let Query(SearchQuery { q: name }) = query?;
    let name = name.trim();
    let filter = EventFilter {
        aggregate_id: Some(parse_aggregate_id(name)?.to_owned()),
        ..EventFilter::default()
    };
    let mut listing = list_page(&live.operator, &filter, MAX_PAGE_SIZE, None).await?;
    if listing.events.is_empty() {
        let found = timeout(SEARCH_TIMEOUT, live.operator.find(name)).await;
        let key = found.map_err(|_| {
            Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!(
                    "`{name}` was not found within {} s among the pending and failed events; search for its aggregate id instead",
                    SEARCH_TIMEOUT.as_secs()
                ),
            )
        })??;
        let event = live.operator.event(&key).await?;
        let event = event.ok_or_else(|| event_not_found(&key))?;
        listing.events.push(event.event);
        return Ok(Json(Found {
            listing,
            blocked_by: event.blocked_by,
        }));
    }
    let blocked_by = live.operator.blocked_by(name, &listing).await?;
    Ok(Json(Found {
        listing,
        blocked_by,
    }))
}

/// Key of an event, as parameters or body of a request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EventKeyParams {
    aggregate_id: String,
    /// Decimal number.
    sequence: String,
}

/// Returns one event in full.
async fn event(
    Shared(live): Shared<Arc<Live>>,
    query: Result<Query<EventKeyParams>, QueryRejection>,
) -> Result<Json<EventDetail>, Problem> {
    let Query(params) = query?;
    let key = parse_key(&params.aggregate_id, &params.sequence)?;
    let event = live.operator.event(&key).await?;
    event.map(Json).ok_or_else(|| event_not_found(&key))
}

fn event_not_found(key: &EventKey) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        format!(
            "event {} of aggregate `{}` does not exist",
            key.sequence, key.aggregate_id
        ),
    )
}

/// Returns the change of an event, or an error if the event does not exist.
fn require_existing(change: EventChange, key: &EventKey) -> Result<EventChange, Problem> {
    match change.status {
        Some(_) => Ok(change),
        None => Err(event_not_found(key)),
    }
}

/// Makes a failed event pending again.
async fn retry(
    Shared(live): Shared<Arc<Live>>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<EventKeyParams>, JsonRejection>,
) -> Result<Json<EventChange>, Problem> {
    let Json(params) = body?;
    let key = parse_key(&params.aggregate_id, &params.sequence)?;
    let change = require_existing(live.operator.retry(&key).await?, &key)?;
    if change.changed {
        tracing::info!(
            actor = &*actor.name,
            aggregate_id = key.aggregate_id,
            sequence = key.sequence,
            "event retried by an operator through the console"
        );
        request_sweep(&live).await;
    }
    Ok(Json(change))
}

/// Requests a sweep after a change, and shows the change soon.
async fn request_sweep(live: &Live) {
    if let Err(error) = live.operator.request_sweep().await {
        tracing::warn!(
            %error,
            "cannot request a sweep; the next regular one publishes the events that are due"
        );
    }
    live.poll_soon();
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DiscardParams {
    aggregate_id: String,
    sequence: String,
    reason: String,
}

/// Discards a failed or pending event for good.
async fn discard(
    Shared(live): Shared<Arc<Live>>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<DiscardParams>, JsonRejection>,
) -> Result<Json<EventChange>, Problem> {
    let Json(params) = body?;
    let key = parse_key(&params.aggregate_id, &params.sequence)?;
    let reason = params.reason.trim();
    let change = require_existing(live.operator.discard(&key, reason).await?, &key)?;
    if change.changed {
        tracing::warn!(
            actor = &*actor.name,
            aggregate_id = key.aggregate_id,
            sequence = key.sequence,
            reason,
            "event discarded by an operator through the console"
        );
        // Later events of the aggregate may have waited for it.
        request_sweep(&live).await;
    }
    Ok(Json(change))
}

fn parse_key(id: &str, sequence: &str) -> Result<EventKey, Problem> {
    if !is_number(sequence) {
        return Err(Problem::bad_request(
            "`sequence` must be a number in the range of DynamoDB",
        ));
    }
    Ok(EventKey {
        aggregate_id: parse_aggregate_id(id)?.to_owned(),
        sequence: sequence.to_owned(),
    })
}

fn parse_aggregate_id(id: &str) -> Result<&str, Problem> {
    if (1..=MAX_ID).contains(&id.len()) {
        Ok(id)
    } else {
        Err(Problem::bad_request(format!(
            "an aggregate id must have 1 to {MAX_ID} bytes"
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

fn parse_optional<T: std::str::FromStr<Err: std::fmt::Display>>(
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
