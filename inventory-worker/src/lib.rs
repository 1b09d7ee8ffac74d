//! Reserves stock for placed orders: `order.placed` messages come from SQS, and
//! each becomes one DynamoDB transaction that sets the order PROCESSED and moves
//! `available` to `reserved`, or a REJECTED order with its reason.
//!
//! # Map
//!
//! ```text
//! SQS ──▶ receive ──▶ handle ──▶ message (parse) ──▶ retry ──▶ reserve ──▶ DynamoDB
//!         slots,      one task                       keeps     outcome (what a
//!         gate        a message                      trying    cancellation means)
//!                        │  while it works: visibility (extend)
//!                        └─ after the effect: delete (batches) ──▶ SQS
//! ```
//!
//! - [`service`]: puts the parts together, and takes them apart on stopping.
//! - [`config`]: the options.
//! - `queue`, `receive`, `slots`: long polling, never for more than there is room for.
//! - `handle`: one delivery from its arrival to its end; the poison rule.
//! - `message`: a delivery, and the event in it.
//! - `retry`: what is tried again, for how long, and when receiving pauses (`gate`).
//! - `reserve`, `outcome`, `trouble`: the transaction, and the pure reading of its answer.
//! - `visibility`, `delete`: the two ways a delivery ends.
//! - `health`, `metrics`, `depth`, `describe`: what is reported.
//!
//! # Why an effect happens once
//!
//! SQS delivers at least once, and nothing here tries to prevent a second
//! delivery for correctness' sake. The transaction's condition `status = CREATED`
//! lets exactly one of any number of deliveries and workers through; every other
//! one learns from the same answer that the order is settled, and deletes its
//! message. That holds for answers that were lost, visibility that ran out and
//! workers that were killed alike.

mod attempt_error;
mod batch_deleter;
mod circuit_breaker;
mod concurrency;
pub mod config;
mod handler;
mod health;
mod inventory_store;
mod message;
mod metrics;
mod order_processor;
mod poller;
mod queue;
mod queue_depth;
pub mod service;
mod transaction_outcome;
mod visibility;

pub use config::Config;
pub use service::run;
