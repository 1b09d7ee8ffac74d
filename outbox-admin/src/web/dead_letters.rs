//! The queues' dead letters: listed, redriven and discarded on the operator's request only. Listing
//! them receives them, so they are not part of the live updates.
//!
//! An operation runs to its end also when the client disconnects: otherwise the messages that it
//! received would stay hidden, and one that it sent again would not be deleted.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, State as Shared};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::access::Actor;
use super::live::Live;
use super::problem::Problem;
use crate::service::OperateError;
use crate::service::dead_letters::{
    DeadLetterAction, DeadLetterChange, DeadLetterListing, Selection,
};

/// Maximum bytes of the body of an action, which has one id.
const MAX_BODY: usize = 4 * 1024;

/// Maximum messages of each queue in a list.
const MAX_MESSAGES: usize = 100;

pub(super) fn router() -> Router<Arc<Live>> {
    Router::new()
        .route("/dead-letters", get(list))
        .route("/dead-letters/redrive", post(redrive))
        .route("/dead-letters/discard", post(discard))
        .layer(DefaultBodyLimit::max(MAX_BODY))
}

/// Lists the oldest dead letters, with long texts cut.
async fn list(Shared(live): Shared<Arc<Live>>) -> Result<Json<DeadLetterListing>, Problem> {
    let listing = async move { live.operator.dead_letters(MAX_MESSAGES).await };
    let mut listing = to_its_end(listing).await?;
    for letter in &mut listing.messages {
        letter.shorten();
    }
    Ok(Json(listing))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MessageParams {
    message_id: String,
}

async fn redrive(
    live: Shared<Arc<Live>>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<MessageParams>, JsonRejection>,
) -> Result<Json<DeadLetterChange>, Problem> {
    let change = change(live, body?, DeadLetterAction::Redrive).await?;
    tracing::info!(
        actor = &*actor.name,
        message_id = change.0.changed.first().map(|letter| &letter.message_id),
        "dead letter redriven by an operator through the console"
    );
    Ok(change)
}

async fn discard(
    live: Shared<Arc<Live>>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<MessageParams>, JsonRejection>,
) -> Result<Json<DeadLetterChange>, Problem> {
    let change = change(live, body?, DeadLetterAction::Discard).await?;
    tracing::warn!(
        actor = &*actor.name,
        message_id = change.0.changed.first().map(|letter| &letter.message_id),
        "dead letter discarded by an operator through the console"
    );
    Ok(change)
}

/// Runs an operation in a task of its own.
async fn to_its_end<T: Send + 'static>(
    operation: impl Future<Output = Result<T, OperateError>> + Send + 'static,
) -> Result<T, Problem> {
    let task = tokio::spawn(operation.in_current_span());
    let ended = task.await.map_err(|error| {
        tracing::error!(%error, "an operation on dead letters failed");
        let detail = "the relay failed while it handled this request; its log has the cause";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
    })?;
    Ok(ended?)
}

/// Changes one message. Fails if it is not in a dead-letter queue, or was not changed.
async fn change(
    Shared(live): Shared<Arc<Live>>,
    Json(params): Json<MessageParams>,
    action: DeadLetterAction,
) -> Result<Json<DeadLetterChange>, Problem> {
    let id = params.message_id;
    let selection = Selection::Ids(HashSet::from([id.clone()]));
    let change = async move {
        let stop = CancellationToken::new();
        let operator = &live.operator;
        operator
            .change_dead_letters(action, &selection, &stop, |_| {})
            .await
    };
    let mut change = to_its_end(change).await?;
    if change.changed.is_empty() {
        return Err(match change.problems.is_empty() {
            true => Problem::new(
                StatusCode::NOT_FOUND,
                format!("no dead letter has the message id `{id}`"),
            ),
            false => Problem::new(StatusCode::SERVICE_UNAVAILABLE, change.problems.join("; ")),
        });
    }
    for letter in &mut change.changed {
        letter.shorten();
    }
    Ok(Json(change))
}
