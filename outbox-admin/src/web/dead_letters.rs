//! The queues' dead letters: listed, redriven and discarded on the operator's request only. Listing
//! them receives them, so they are not part of the live updates.
//!
//! An operation runs to its end also when the client disconnects: otherwise the messages that it
//! received would stay hidden, and one that it sent again would not be deleted. Operations run one
//! at a time, as they would hide messages from each other; a request that waits ends when
//! its client disconnects, so that no operations accumulate.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, State as Shared};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::access::Actor;
use super::live::Live;
use super::problem::Problem;
use crate::service::OperateError;
use crate::service::dead_letters::{
    DeadLetter, DeadLetterAction, DeadLetterChange, DeadLetterListing, Selection,
};

/// Maximum bytes of the body of an action, which has one id.
const MAX_BODY: usize = 4 * 1024;

/// Maximum messages of each queue in a list.
const MAX_MESSAGES: usize = 100;

/// Held by the operation that runs.
#[derive(Clone, Debug, Default)]
struct Turn(Arc<Mutex<()>>);

pub(super) fn router() -> Router<Arc<Live>> {
    Router::new()
        .route("/dead-letters", get(list))
        .route("/dead-letters/redrive", post(redrive))
        .route("/dead-letters/discard", post(discard))
        .layer(Extension(Turn::default()))
        .layer(DefaultBodyLimit::max(MAX_BODY))
}

/// Lists the oldest dead letters, with long texts truncated.
async fn list(
    Shared(live): Shared<Arc<Live>>,
    Extension(turn): Extension<Turn>,
) -> Result<Json<DeadLetterListing>, Problem> {
    let listing = async move { live.operator.dead_letters(MAX_MESSAGES).await };
    let mut listing = turn.run(listing).await?;
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
    turn: Extension<Turn>,
    actor: Extension<Actor>,
    body: Result<Json<MessageParams>, JsonRejection>,
) -> Result<Json<DeadLetterChange>, Problem> {
    change(live, turn, actor, body?, DeadLetterAction::Redrive).await
}

async fn discard(
    live: Shared<Arc<Live>>,
    turn: Extension<Turn>,
    actor: Extension<Actor>,
    body: Result<Json<MessageParams>, JsonRejection>,
) -> Result<Json<DeadLetterChange>, Problem> {
    change(live, turn, actor, body?, DeadLetterAction::Discard).await
}

impl Turn {
    /// Runs an operation after those that run, in a task of its own.
    async fn run<T: Send + 'static>(
        self,
        operation: impl Future<Output = Result<T, OperateError>> + Send + 'static,
    ) -> Result<T, Problem> {
        let turn = self.0.lock_owned().await;
        let operation = async move {
            let _turn = turn;
            operation.await
        };
        let task = tokio::spawn(operation.in_current_span());
        let ended = task.await.map_err(|error| {
            tracing::error!(%error, "an operation on dead letters failed");
            let detail = "the relay failed while it handled this request; its log has the cause";
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
        })?;
        Ok(ended?)
    }
}

/// Changes one message. Fails if it is not in a dead-letter queue, or was not changed.
async fn change(
    Shared(live): Shared<Arc<Live>>,
    Extension(turn): Extension<Turn>,
    Extension(actor): Extension<Actor>,
    Json(params): Json<MessageParams>,
    action: DeadLetterAction,
) -> Result<Json<DeadLetterChange>, Problem> {
    let id = params.message_id;
    let selection = Selection::Ids(HashSet::from([id.clone()]));
    let change = async move {
        let stop = CancellationToken::new();
        let operator = &live.operator;
        let change = operator.change_dead_letters(action, &selection, &stop, |_| {});
        let change = change.await?;
        report(&change, action, &actor);
        Ok(change)
    };
    let mut change = turn.run(change).await?;
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

/// Logs who changed which messages.
fn report(change: &DeadLetterChange, action: DeadLetterAction, actor: &Actor) {
    for DeadLetter { message_id, .. } in &change.changed {
        let actor = &*actor.name;
        match action {
            DeadLetterAction::Redrive => tracing::info!(
                actor,
                message_id,
                "dead letter redriven by an operator through the console"
            ),
            DeadLetterAction::Discard => tracing::warn!(
                actor,
                message_id,
                "dead letter discarded by an operator through the console"
            ),
        }
    }
}
