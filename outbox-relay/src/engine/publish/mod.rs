//! Publishes dispatched events: sends them to their queues and marks them in the outbox table,
//! defers them, or quarantines them (the "publish → mark → checkpoint", "deferral" and
//! "error classes" rules).
//!
//! ```text
//! Dispatcher ─commands─▶ Publisher ─▶ SendScheduler ─▶ queue ─▶ Marker ─▶ checkpoint
//!                            ├──────────▶ DeferralWriter ─────────────────────┤
//!                            └──────────▶ QuarantineQueue ────────────────────┘
//! ```

mod batch_writer;
mod deferral_writer;
pub(crate) mod dispatcher;
mod look_ups;
mod marker;
mod outcomes;
pub(crate) mod publisher;
mod quarantine_queue;
mod send_spans;
mod sender;
pub(crate) mod sweep_requests;
