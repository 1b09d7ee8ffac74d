//! Writes of items, which conflict with running transactions and are throttled.
//!
//! As in DynamoDB, the kind of request determines what fails. For example, if an item is inside a
//! running transaction: another transaction is cancelled, with `TransactionConflict` as the reason
//! of the item; a single write fails with `TransactionConflictException`; a statement of a batch
//! fails by itself; and a write of a `BatchWriteItem` is left unprocessed.

use bytes::Bytes;
use dynoxide::Item;
use http::request::Parts;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Either};
use serde_json::{Map, Value, json};

use super::client_request_tokens::{Claim, Transaction};
use super::interceptor::{Interceptor, rebuilt};
use super::responses::{
    Rejection, idempotent_parameter_mismatch, json_response, transaction_cancelled,
    transaction_in_progress,
};
use super::shared::ids;
use super::throttle::TRANSACTIONAL;
use super::write_operation::Write;
use super::written_items::{self as items, WrittenItems};
use crate::fidelity::Fidelity;
use crate::upstream::{Error, UpstreamResponse};

/// A request whose items were read.
struct Sent {
    parts: Parts,
    body: Bytes,
    items: WrittenItems,
    /// The items before the request.
    images: Vec<Option<Item>>,
    fidelity: Fidelity,
}

impl Interceptor {
    pub(super) async fn write(
        self,
        write: Write,
        parts: Parts,
        body: Bytes,
    ) -> Result<UpstreamResponse, Error> {
        let fidelity = self.shared.fidelity.get();
        let is_observed = self.shared.observes_writes(fidelity);
        if write != Write::Transaction && !is_observed {
            return self.forward(parts, body).await;
        }
        // A task of its own, so that the write completes and is accounted for even if the client
        // disconnects. Of a transaction the response is kept: a retry with the same token must not
        // run it again.
        tokio::spawn(async move {
            match write {
                Write::Transaction => match Transaction::with_token(&body) {
                    Some(transaction) => self.transact_once(parts, transaction, fidelity).await,
                    None => self.transact(parts, body, fidelity).await,
                },
                Write::TransactionalRead => self.transactional_read(parts, body).await,
                _ => self.write_observed(write, parts, body, fidelity).await,
            }
        })
        .await?
    }

    pub(super) async fn forward(
        &self,
        parts: Parts,
        body: Bytes,
    ) -> Result<UpstreamResponse, Error> {
        self.upstream.send(rebuilt(parts, body)).await
    }

    async fn transact_once(
        &self,
        parts: Parts,
        sent: Transaction,
        fidelity: Fidelity,
    ) -> Result<UpstreamResponse, Error> {
        let claim = match self.shared.tokens.claim(&sent) {
            Claim::Mismatch => return Ok(idempotent_parameter_mismatch()),
            Claim::Granted(claim) => claim,
        };
        let mut outcome = match fidelity.transaction_time {
            Some(_) => match claim.outcome.try_lock() {
                Ok(outcome) => outcome,
                Err(_) => return Ok(transaction_in_progress()),
            },
            // A concurrent request with the same token waits here for the first one.
            None => claim.outcome.lock().await,
        };
        if let Some(done) = &*outcome {
            return Ok(json_response(StatusCode::OK, done.clone()));
        }
        match self.transact(parts, sent.body, fidelity).await {
            Ok(response) if response.status() == StatusCode::OK => {
                let (parts, body) = response.into_parts();
                let body = body.collect().await?.to_bytes();
                // A copy, because the received bytes keep a whole read buffer alive.
                *outcome = Some(Bytes::copy_from_slice(&body));
                Ok(Response::from_parts(parts, Either::Right(body.into())))
            }
            // A failed transaction has no effect, so its token can be used again.
            other => {
                self.shared.tokens.release(&sent.token, &claim);
                other
            }
        }
    }

    /// Holds the items of a transaction, waits, and executes it. The wait precedes the effect, so
    /// that readers and streams see the items only when they are not held any more.
    async fn transact(
        &self,
        parts: Parts,
        body: Bytes,
        fidelity: Fidelity,
    ) -> Result<UpstreamResponse, Error> {
        let shared = &self.shared;
        if !shared.observes_writes(fidelity) {
            return self.forward(parts, body).await;
        }
        let items = items::of_transaction(&body, &shared.schemas).await;
        let images = shared.images(&items, fidelity).await;
        let throttled = shared.throttled(&items, &images, fidelity);
        if throttled.iter().any(Option::is_some) {
            return Ok(transaction_cancelled(&throttled));
        }
        let mut running = None;
        if let Some(time) = fidelity.transaction_time {
            running = match shared.running.begin(&ids(&items)) {
                Ok(running) => Some(running),
                Err(conflicts) => {
                    let conflicts = conflicts.into_iter();
                    let rejections =
                        conflicts.map(|is_held| is_held.then_some(Rejection::Conflict));
                    return Ok(transaction_cancelled(&rejections.collect::<Vec<_>>()));
                }
            };
            if !time.is_zero() {
                tokio::time::sleep(time).await;
            }
        }
        let response = self.forward(parts, body).await;
        drop(running);
        shared
            .completed(&items, &images, TRANSACTIONAL, fidelity)
            .await;
        response
    }

    async fn transactional_read(
        &self,
        parts: Parts,
        body: Bytes,
    ) -> Result<UpstreamResponse, Error> {
        let items = items::of_transaction(&body, &self.shared.schemas).await;
        let conflicts = self.shared.running.conflicts(&ids(&items)).into_iter();
        let rejections = conflicts.map(|is_held| is_held.then_some(Rejection::Conflict));
        let rejections: Vec<_> = rejections.collect();
        if rejections.iter().any(Option::is_some) {
            return Ok(transaction_cancelled(&rejections));
        }
        self.forward(parts, body).await
    }

    async fn write_observed(
        &self,
        write: Write,
        parts: Parts,
        body: Bytes,
        fidelity: Fidelity,
    ) -> Result<UpstreamResponse, Error> {
        let schemas = &self.shared.schemas;
        let items = match write {
            Write::Statement => items::of_statement(&body, schemas).await,
            Write::Statements => items::of_statements(&body, schemas).await,
            Write::Batch => items::of_batch_write(&body, schemas).await,
            _ => items::of_write(&body, schemas).await,
        };
        let images = self.shared.images(&items, fidelity).await;
        let rejections = self.shared.rejections(&items, &images, fidelity);
        let sent = Sent {
            parts,
            body,
            items,
            images,
            fidelity,
        };
        match (write, rejections.iter().flatten().next()) {
            (_, None) => self.execute(sent).await,
            (Write::Statements, Some(_)) => self.execute_statements(sent, &rejections).await,
            (Write::Batch, Some(_)) => self.write_batch(sent, &rejections).await,
            (_, Some(rejection)) => Ok(rejection.response()),
        }
    }

    async fn execute(&self, sent: Sent) -> Result<UpstreamResponse, Error> {
        let response = self.forward(sent.parts, sent.body).await;
        self.shared
            .completed(&sent.items, &sent.images, 1.0, sent.fidelity)
            .await;
        response
    }

    /// Executes a part of a request, which has the body `request`. Returns the body of the
    /// response, or the response as it is if it is an error.
    async fn execute_part(
        &self,
        sent: Sent,
        request: &Value,
    ) -> Result<Result<Value, UpstreamResponse>, Error> {
        let body = request.to_string().into();
        let response = self.execute(Sent { body, ..sent }).await?;
        if response.status() != StatusCode::OK {
            return Ok(Err(response));
        }
        let body = response.into_body().collect().await?.to_bytes();
        Ok(Ok(serde_json::from_slice(&body)?))
    }

    /// Executes the statements that are not rejected and adds the errors of the others.
    async fn execute_statements(
        &self,
        mut sent: Sent,
        rejections: &[Option<Rejection>],
    ) -> Result<UpstreamResponse, Error> {
        let mut request: Value = serde_json::from_slice(&sent.body)?;
        if let Some(Value::Array(statements)) = request.get_mut("Statements") {
            split(statements, &mut rejections.iter());
        }
        without_rejected(&mut sent.items, rejections);
        let executed = if rejections.iter().all(Option::is_some) {
            Ok(json!({"Responses": []}))
        } else {
            self.execute_part(sent, &request).await?
        };
        let mut executed = match executed {
            Ok(executed) => executed,
            Err(response) => return Ok(response),
        };
        if let Some(Value::Array(responses)) = executed.get_mut("Responses") {
            // In order, so each is inserted at its final position.
            for (position, rejection) in rejections.iter().enumerate() {
                if let Some(rejection) = rejection {
                    let position = position.min(responses.len());
                    responses.insert(position, json!({"Error": rejection.error()}));
                }
            }
        }
        Ok(json_response(StatusCode::OK, executed.to_string()))
    }

    /// Executes the writes that are not rejected and returns the others as unprocessed. If all are
    /// throttled, the request fails.
    async fn write_batch(
        &self,
        mut sent: Sent,
        rejections: &[Option<Rejection>],
    ) -> Result<UpstreamResponse, Error> {
        let throttled =
            |rejection: &&Option<Rejection>| matches!(rejection, Some(Rejection::Throttled { .. }));
        if let (true, Some(Some(first))) = (
            rejections.iter().all(|it| throttled(&it)),
            rejections.first(),
        ) {
            return Ok(first.response());
        }
        let mut request: Value = serde_json::from_slice(&sent.body)?;
        let mut unprocessed = Map::new();
        let mut written = json!({});
        if let Some(Value::Object(tables)) = request.get_mut("RequestItems") {
            // The order of `of_batch_write`.
            let mut names: Vec<_> = tables.keys().cloned().collect();
            names.sort();
            let mut rejections = rejections.iter();
            for name in names {
                if let Some(Value::Array(writes)) = tables.get_mut(&name) {
                    let rejected = split(writes, &mut rejections);
                    if !rejected.is_empty() {
                        unprocessed.insert(name, Value::Array(rejected));
                    }
                }
            }
            tables.retain(|_, writes| writes.as_array().is_none_or(|writes| !writes.is_empty()));
        }
        without_rejected(&mut sent.items, rejections);
        if !rejections.iter().all(Option::is_some) {
            written = match self.execute_part(sent, &request).await? {
                Ok(written) => written,
                Err(response) => return Ok(response),
            };
        }
        written["UnprocessedItems"] = Value::Object(unprocessed);
        Ok(json_response(StatusCode::OK, written.to_string()))
    }
}

/// Removes the elements that are rejected and returns them.
fn split<'a>(
    elements: &mut Vec<Value>,
    rejections: &mut impl Iterator<Item = &'a Option<Rejection>>,
) -> Vec<Value> {
    let is_rejected = |_: &mut Value| rejections.next().is_some_and(Option::is_some);
    elements.extract_if(.., is_rejected).collect()
}

/// Removes the rejected items, which are not written.
fn without_rejected(items: &mut WrittenItems, rejections: &[Option<Rejection>]) {
    for (item, rejection) in items.iter_mut().zip(rejections) {
        if rejection.is_some() {
            *item = None;
        }
    }
}
