//! Writes of items, which conflict with the running transactions.
//!
//! As in DynamoDB, an item inside a running transaction makes every other write of it fail, and
//! what fails depends on the request: another transaction is cancelled, with `TransactionConflict`
//! as the reason of the item; a single write fails with `TransactionConflictException`; a statement
//! of a batch fails by itself; and a write of a `BatchWriteItem` is left unprocessed.

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Either};
use serde_json::{Value, json};

use super::client_request_tokens::{Claim, Transaction};
use super::interceptor::{Interceptor, rebuilt};
use super::responses::{
    conflict_error, idempotent_parameter_mismatch, json_response, transaction_cancelled,
    transaction_conflict, transaction_in_progress,
};
use super::written_items as items;
use crate::upstream::{Error, UpstreamResponse};

/// An operation that writes items, or that a write of its items makes fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// `PutItem`, `UpdateItem` or `DeleteItem`.
    Item,
    /// `ExecuteStatement`.
    Statement,
    /// `BatchExecuteStatement`.
    Statements,
    /// `BatchWriteItem`.
    Batch,
    /// `TransactWriteItems`.
    Transaction,
    /// `TransactGetItems`, which reads only items outside of running transactions.
    TransactionalRead,
}

impl Write {
    /// Returns the operation of a request with this `x-amz-target`.
    pub(super) fn of(target: &[u8]) -> Option<Self> {
        match target.strip_prefix(b"DynamoDB_20120810.")? {
            b"PutItem" | b"UpdateItem" | b"DeleteItem" => Some(Self::Item),
            b"ExecuteStatement" => Some(Self::Statement),
            b"BatchExecuteStatement" => Some(Self::Statements),
            b"BatchWriteItem" => Some(Self::Batch),
            b"TransactWriteItems" => Some(Self::Transaction),
            b"TransactGetItems" => Some(Self::TransactionalRead),
            _ => None,
        }
    }
}

impl Interceptor {
    pub(super) async fn write(
        self,
        write: Write,
        parts: Parts,
        body: Bytes,
    ) -> Result<UpstreamResponse, Error> {
        if write == Write::Transaction {
            return self.transact(parts, body).await;
        }
        if self.shared.fidelity.transaction_time.is_none() {
            return self.forward(parts, body).await;
        }
        let (running, schemas) = (&self.shared.running, &self.shared.schemas);
        match write {
            Write::Item | Write::Statement => {
                let item = match write {
                    Write::Item => items::of_write(&body, schemas).await,
                    _ => items::of_statement(&body, schemas).await,
                };
                match running.conflicts(&[item]).contains(&true) {
                    true => Ok(transaction_conflict()),
                    false => self.forward(parts, body).await,
                }
            }
            Write::TransactionalRead => {
                let conflicts = running.conflicts(&items::of_transaction(&body, schemas).await);
                match conflicts.contains(&true) {
                    true => Ok(transaction_cancelled(&conflicts)),
                    false => self.forward(parts, body).await,
                }
            }
            Write::Statements => {
                let conflicts = running.conflicts(&items::of_statements(&body, schemas).await);
                match conflicts.contains(&true) {
                    true => self.execute_statements(parts, &body, &conflicts).await,
                    false => self.forward(parts, body).await,
                }
            }
            Write::Batch => self.write_batch(parts, body).await,
            Write::Transaction => self.transact(parts, body).await,
        }
    }

    pub(super) async fn forward(
        &self,
        parts: Parts,
        body: Bytes,
    ) -> Result<UpstreamResponse, Error> {
        self.upstream.send(rebuilt(parts, body)).await
    }

    async fn transact(self, parts: Parts, body: Bytes) -> Result<UpstreamResponse, Error> {
        // A task of its own, so that the transaction completes and its response is kept even if the
        // client disconnects: a retry with the same token must not run it again.
        match Transaction::with_token(&body) {
            Some(transaction) => tokio::spawn(self.transact_once(parts, transaction)).await?,
            None => tokio::spawn(self.run_transaction(parts, body)).await?,
        }
    }

    async fn transact_once(
        self,
        parts: Parts,
        sent: Transaction,
    ) -> Result<UpstreamResponse, Error> {
        let claim = match self.shared.tokens.claim(&sent) {
            Claim::Mismatch => return Ok(idempotent_parameter_mismatch()),
            Claim::Granted(claim) => claim,
        };
        let mut outcome = match self.shared.fidelity.transaction_time {
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
        let tokens = &self.shared.tokens;
        match self.clone().run_transaction(parts, sent.body).await {
            Ok(response) if response.status() == StatusCode::OK => {
                let (parts, body) = response.into_parts();
                let body = body.collect().await?.to_bytes();
                // A copy, because the received bytes keep a whole read buffer alive.
                *outcome = Some(Bytes::copy_from_slice(&body));
                Ok(Response::from_parts(parts, Either::Right(body.into())))
            }
            // A failed transaction has no effect, so its token can be used again.
            other => {
                tokens.release(&sent.token, &claim);
                other
            }
        }
    }

    /// Holds the items of a transaction, waits, and executes it. The wait precedes the effect, so
    /// that readers and streams see the items only when they are not held any more.
    async fn run_transaction(self, parts: Parts, body: Bytes) -> Result<UpstreamResponse, Error> {
        let Some(time) = self.shared.fidelity.transaction_time else {
            return self.forward(parts, body).await;
        };
        let items = items::of_transaction(&body, &self.shared.schemas).await;
        let running = match self.shared.running.begin(&items) {
            Ok(running) => running,
            Err(conflicts) => return Ok(transaction_cancelled(&conflicts)),
        };
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
        let response = self.forward(parts, body).await;
        drop(running);
        response
    }

    /// Executes the statements without a conflict and adds the errors of the others.
    async fn execute_statements(
        &self,
        parts: Parts,
        body: &[u8],
        conflicts: &[bool],
    ) -> Result<UpstreamResponse, Error> {
        let mut request: Value = serde_json::from_slice(body)?;
        if let Some(Value::Array(statements)) = request.get_mut("Statements") {
            retain(statements, conflicts, false);
        }
        let mut executed = if conflicts.contains(&false) {
            let response = self.forward(parts, request.to_string().into()).await?;
            if response.status() != StatusCode::OK {
                return Ok(response);
            }
            let body = response.into_body().collect().await?.to_bytes();
            serde_json::from_slice(&body)?
        } else {
            json!({"Responses": []})
        };
        if let Some(Value::Array(responses)) = executed.get_mut("Responses") {
            // In order, so each is inserted at its final position.
            for (position, _) in conflicts.iter().enumerate().filter(|(_, held)| **held) {
                let position = position.min(responses.len());
                responses.insert(position, json!({"Error": conflict_error()}));
            }
        }
        Ok(json_response(StatusCode::OK, executed.to_string()))
    }

    /// Executes the writes without a conflict and returns the others as unprocessed.
    async fn write_batch(&self, parts: Parts, body: Bytes) -> Result<UpstreamResponse, Error> {
        let items = items::of_batch_write(&body, &self.shared.schemas).await;
        let mut unprocessed = serde_json::Map::new();
        let mut request: Value = serde_json::from_slice(&body).unwrap_or_default();
        for (table, items) in items {
            let conflicts = self.shared.running.conflicts(&items);
            let writes = request
                .get_mut("RequestItems")
                .and_then(|t| t.get_mut(&table));
            let Some(Value::Array(writes)) = writes.filter(|_| conflicts.contains(&true)) else {
                continue;
            };
            let mut held = writes.clone();
            retain(&mut held, &conflicts, true);
            retain(writes, &conflicts, false);
            if writes.is_empty()
                && let Some(Value::Object(tables)) = request.get_mut("RequestItems")
            {
                tables.remove(&table);
            }
            unprocessed.insert(table, Value::Array(held));
        }
        if unprocessed.is_empty() {
            return self.forward(parts, body).await;
        }
        let is_empty = |tables: &Value| tables.as_object().is_none_or(serde_json::Map::is_empty);
        let mut written = if request.get("RequestItems").is_none_or(is_empty) {
            json!({"UnprocessedItems": {}})
        } else {
            let response = self.forward(parts, request.to_string().into()).await?;
            if response.status() != StatusCode::OK {
                return Ok(response);
            }
            let body = response.into_body().collect().await?.to_bytes();
            serde_json::from_slice(&body)?
        };
        written["UnprocessedItems"] = Value::Object(unprocessed);
        Ok(json_response(StatusCode::OK, written.to_string()))
    }
}

/// Keeps the elements with a conflict, or those without one.
fn retain(elements: &mut Vec<Value>, conflicts: &[bool], with_conflict: bool) {
    let mut conflicts = conflicts.iter();
    elements.retain(|_| conflicts.next().copied().unwrap_or(false) == with_conflict);
}
