//! The transactional outbox.
//!
//! A service writes its business change and its event in one transaction:
//!
//! ```no_run
//! # async fn example(dynamodb: aws_sdk_dynamodb::Client, order_put: aws_sdk_dynamodb::types::TransactWriteItem)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! use outbox::{NewEvent, Outbox};
//! use tracing::Instrument;
//!
//! let outbox = Outbox::new("outbox");
//! let payload = serde_json::json!({ "order_id": "o-1" });
//! // The sequence counts the events of this aggregate from 1, without holes:
//! // keep it in the aggregate's own item and let the transaction check it.
//! let staged = outbox.stage(NewEvent::new("order", "o-1", 1, "order.placed", &payload)?)?;
//! dynamodb
//!     .transact_write_items()
//!     .transact_items(order_put)
//!     .transact_items(staged.item)
//!     .send()
//!     .instrument(staged.span)
//!     .await?;
//! # Ok(()) }
//! ```
//!
//! Let one transaction write one event per aggregate: DynamoDB Streams does not
//! promise an order between two items of one transaction.
//!
//! - [`event`]: what a writer hands over, and the `Put` made of it.
//! - [`item`]: the stored item, the one place where attribute names stand.
//! - [`message`]: the SQS message made from an item, and why one cannot be.
//! - [`trace_context`]: W3C trace context as it is stored and sent.
//! - [`timestamp`]: instants as RFC 3339 text.

pub mod event;
pub mod item;
pub mod message;
pub mod timestamp;
pub mod trace_context;

pub use event::{EventError, NewEvent, Outbox, Staged};
pub use item::{MalformedItem, OutboxItem, Status};
pub use message::{Message, Unpublishable};
