//! Reserves stock for placed orders.
//!
//! `order.placed` messages arrive over SQS. Orders that need the same SKUs become one DynamoDB
//! transaction, which sets each of them PROCESSED and moves their summed stock from `available` to
//! `reserved`. An order for which there is not enough stock is set REJECTED with its reason.
//!
//! # Map
//!
//! ```text
//! SQS ──▶ poller ──▶ handler ──▶ dispatcher ──▶ batch_processor ──▶ inventory_store ──▶ DynamoDB
//!         concurrency   │        batch_planner  (retries)           transaction,
//!         circuit_      message  (which orders  circuit_breaker     transaction_outcome
//!         breaker       (parse)   together)                         (interprets the response)
//!                       │
//!                       ├─ meanwhile: visibility (extend)
//!                       └─ after the effect: batch_deleter ──▶ SQS
//! ```
//!
//! - [`service`]: starts and stops the parts.
//! - [`config`]: the options.
//! - `poller`, `queue`, `concurrency`: long polling within the concurrency limit.
//! - `handler`: each delivery, from its arrival to its `disposition`; the poison rule.
//! - `message`: a delivery, and the event in it.
//! - `batch_planner`, `dispatcher`, `job`: which orders are processed together, and when. Pure, and
//!   the tasks that carry it out.
//! - `batch_processor`, `retry`: attempts at a batch until its orders are decided, by kind of
//!   `attempt_error`; `circuit_breaker` pauses polling while DynamoDB is unavailable.
//! - `inventory_store`, `transaction`, `transaction_outcome`: the transaction, and the pure
//!   interpretation of its response.
//! - `visibility`, `batch_deleter`: the two ways a delivery ends.
//! - `progress`, `health`, `metrics`, `queue_depth`: what the worker reports about itself.
//!
//! # Order
//!
//! Within a process two transactions never name the same SKU, so they never conflict with each
//! other, and orders of one SKU are attempted in the order of their arrival. A batch has the
//! outcome that its orders would have had one by one.
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
mod batch_planner;
mod batch_processor;
mod circuit_breaker;
mod concurrency;
pub mod config;
mod dispatcher;
mod disposition;
mod handler;
mod health;
mod inventory_store;
mod job;
mod message;
mod metrics;
mod poller;
mod progress;
mod queue;
mod queue_depth;
mod retry;
pub mod service;
mod transaction;
mod transaction_outcome;
mod visibility;

pub use config::Config;
pub use service::run;
