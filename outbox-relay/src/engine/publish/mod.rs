//! Sends events to their queues and marks them in the outbox table.

pub(crate) mod dispatcher;
pub(crate) mod marker;
pub(crate) mod publisher;
pub(crate) mod quarantine_queue;
pub(crate) mod send_spans;
