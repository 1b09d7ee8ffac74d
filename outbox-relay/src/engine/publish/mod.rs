//! Publishes dispatched events: sends them to their queues and marks them in the outbox table, or
//! quarantines them (the "publish → mark → checkpoint" and "error classes" rules).
//!
//! ```text
//! Dispatcher ─commands─▶ Publisher ─▶ SendScheduler ─▶ queue ─▶ Marker ─▶ checkpoint
//!                            └──────────▶ QuarantineQueue ───────────────────┘
//! ```

pub(crate) mod dispatcher;
mod marker;
pub(crate) mod publisher;
mod quarantine_queue;
mod send_spans;
