//! Pipeline of one shard: a record passes the stages in order. An event that has to wait for its
//! predecessor passes the filter and the gate again with the next page, or when a look-up is due.
//!
//! ```text
//! ShardReader ─pages▶ RecordClassifier ─▶ TakeoverFilter ─▶ SequenceGate ─▶ Dispatcher
//!                                              ▲                │
//!                                              └────waiting─────┘ (until the next page or look-up)
//! ```
//!
//! [`record_pipeline`] connects the stages. The dispatcher passes events to the publisher.

mod known_statuses;
mod read_event;
mod record_classifier;
pub(crate) mod record_pipeline;
pub(crate) mod sequence_gate;
pub(crate) mod shard_reader;
mod takeover_filter;
