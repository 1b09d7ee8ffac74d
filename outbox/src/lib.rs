//! Transactional outbox for DynamoDB.
//!
//! A service stores a business change and the event that describes it in one transaction. The relay
//! (`outbox-relay`) reads the table's stream and publishes the event to SQS: at least once, and in
//! `sequence` order within an aggregate.
//!
//! ```no_run
//! # async fn example(
//! #     dynamodb: aws_sdk_dynamodb::Client,
//! #     put_order: aws_sdk_dynamodb::types::TransactWriteItem,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! use outbox::{Aggregate, NewEvent, Outbox};
//!
//! let outbox = Outbox::new("outbox");
//! let payload = serde_json::json!({ "order_id": "o-1" });
//! let order = Aggregate { kind: "order", id: "o-1" };
//! let event = NewEvent::new(order, 1, "order.placed", &payload)?;
//! dynamodb
//!     .transact_write_items()
//!     .transact_items(put_order)
//!     .transact_items(outbox.stage(event)?)
//!     .send()
//!     .await?;
//! # Ok(()) }
//! ```
//!
//! # Sequence
//! The sequence numbers the events of one aggregate from 1, without gaps. A [`Sequence`] keeps the
//! last number in the aggregate's own item and lets the transaction check it: of two concurrent
//! writers one then fails and retries with the next number. Write at most one event per aggregate
//! in a transaction: DynamoDB Streams does not promise an order between two items of one
//! transaction.
//!
//! # Modules
//! A [`NewEvent`] becomes an [`OutboxItem`], which the writer stores and the relay reads from the
//! stream; the relay makes a [`Message`] of it. Staging makes the message too, and discards it: an
//! event that could never be published is rejected before it is committed.
//!
//! - [`event`]: a new event, and the transaction action that stores it.
//! - [`item`]: the stored item; the only place that names the table's attributes.
//! - [`message`]: the SQS message of an item, and the limits of SQS that it must meet.
//! - [`sequence`]: the number of the aggregate's last event, kept in its item.
//! - [`trace_context`]: the W3C trace context that is stored and sent with an event.
//! - [`Buckets`]: the index partitions over which pending events are spread.
//! - [`timestamp`]: instants as RFC 3339 text.
//!
//! # Features
//! None is enabled by default.
//!
//! - `opentelemetry`: conversions between a [`TraceContext`] and an OpenTelemetry context.
//! - `tracing`: `Outbox::stage_with_span`, which creates the PRODUCER span of an event and stores
//!   its context. Enables `opentelemetry`.

#![deny(missing_docs)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod buckets;
pub mod event;
mod excerpt;
pub mod item;
pub mod message;
#[cfg(feature = "tracing")]
mod producer_span;
pub mod sequence;
pub mod timestamp;
pub mod trace_context;

pub use buckets::{Buckets, InvalidBuckets};
pub use event::{Aggregate, EventError, NewEvent, Outbox};
pub use item::{MalformedItem, OutboxItem, Status};
pub use message::{Message, Unpublishable};
#[cfg(feature = "tracing")]
pub use producer_span::StagedEvent;
pub use sequence::Sequence;
pub use timestamp::Timestamp;
pub use trace_context::TraceContext;

/// Compiles the example of README.md.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
