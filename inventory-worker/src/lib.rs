//! Reserves stock for placed orders.
//!
//! `order.placed` messages arrive over SQS. Each becomes one DynamoDB transaction that sets the
//! order PROCESSED and moves `available` to `reserved`, or an update that sets the order REJECTED
//! with its reason.
//!
//! # Map
//!
//! ```text
//! SQS ──▶ poller ──▶ handler ──▶ message ──▶ order_processor ──▶ inventory_store ──▶ DynamoDB
//!         concurrency,   │       (parse)     (retries)           transaction_outcome
//!         circuit_breaker│                                       (interprets the response)
//!                        ├─ meanwhile: visibility (extend)
//!                        └─ after the effect: batch_deleter ──▶ SQS
//! ```
//!
//! - [`service`]: starts and stops the parts.
//! - [`config`]: the options.
//! - `poller`, `queue`, `concurrency`: long polling within the concurrency limit.
//! - `handler`: one delivery, from its arrival to its `disposition`; the poison rule.
//! - `message`: a delivery, and the event in it.
//! - `order_processor`: retries by kind of `attempt_error`; `circuit_breaker` pauses polling while
//!   DynamoDB is unavailable.
//! - `inventory_store`, `transaction_outcome`: the transaction, and the pure interpretation of its
//!   response.
//! - `visibility`, `batch_deleter`: the two ways a delivery ends.
//! - `progress`, `health`, `metrics`, `queue_depth`: what the worker reports about itself.
//!
//! # Effect once
//!
//! SQS delivers at least once, and correctness does not depend on preventing a second delivery. The
//! transaction's condition `status = CREATED` holds for exactly one of any number of deliveries and
//! workers. Every other delivery learns from the same response that the order is processed or
//! rejected already, and its message is deleted. That covers lost responses, expired visibility
//! timeouts and killed workers alike.

mod attempt_error;
mod batch_deleter;
mod circuit_breaker;
mod concurrency;
pub mod config;
mod disposition;
mod handler;
mod health;
mod inventory_store;
mod message;
mod metrics;
mod order_processor;
mod poller;
mod progress;
mod queue;
mod queue_depth;
pub mod service;
mod transaction_outcome;
mod visibility;

pub use config::Config;
pub use service::run;
