//! Attribute names.

/// Partition key (S).
pub const AGGREGATE_ID: &str = "aggregate_id";
/// Sort key (N): from 1, without gaps per aggregate.
pub const SEQUENCE: &str = "sequence";
/// Unique id of the event (S).
pub const EVENT_ID: &str = "event_id";
/// Kind of aggregate (S), such as `order`.
pub const AGGREGATE_TYPE: &str = "aggregate_type";
/// Kind of event (S), such as `order.placed`.
pub const EVENT_TYPE: &str = "event_type";
/// JSON text (S).
pub const PAYLOAD: &str = "payload";
/// RFC 3339 time (S); sort key of the index.
pub const OCCURRED_AT: &str = "occurred_at";
/// W3C trace context (S), optional.
pub const TRACEPARENT: &str = "traceparent";
/// W3C trace context (S), optional.
pub const TRACESTATE: &str = "tracestate";
/// One of the texts of [`Status`](super::Status) (S).
pub const STATUS: &str = "status";
/// Partition key of the index (S); absent once the event is published.
pub const STATE_BUCKET: &str = "state_bucket";
/// RFC 3339 time of the last publication (S).
pub const PUBLISHED_AT: &str = "published_at";
/// SQS's id of the message (S).
pub const MESSAGE_ID: &str = "message_id";
/// Time to live (N): seconds since the epoch; set only on publication.
pub const EXPIRES_AT: &str = "expires_at";
/// RFC 3339 time of the quarantine (S).
pub const FAILED_AT: &str = "failed_at";
/// Reason of the quarantine (S), for an operator.
pub const FAILURE: &str = "failure";
/// Number of sends that failed before the quarantine (N).
pub const ATTEMPTS: &str = "attempts";
/// RFC 3339 time at which an operator retried a quarantined event (S).
pub const RETRIED_AT: &str = "retried_at";
/// Number of replays (N): how often an operator had a published event sent again.
pub const REPLAYS: &str = "replays";
/// RFC 3339 time of the last replay (S).
pub const REPLAYED_AT: &str = "replayed_at";
/// RFC 3339 time (S) at which the relay deferred the event, because its queue was unavailable or
/// an earlier event of its aggregate was waiting; kept when the event is published.
pub const DEFERRED_AT: &str = "deferred_at";
/// RFC 3339 time at which an operator discarded the event (S).
pub const DISCARDED_AT: &str = "discarded_at";
/// An operator's reason to discard the event (S).
pub const DISCARD_REASON: &str = "discard_reason";

/// All of the above. An item may have other attributes; they are ignored.
pub const ALL: [&str; 23] = [
    AGGREGATE_ID,
    SEQUENCE,
    EVENT_ID,
    AGGREGATE_TYPE,
    EVENT_TYPE,
    PAYLOAD,
    OCCURRED_AT,
    TRACEPARENT,
    TRACESTATE,
    STATUS,
    STATE_BUCKET,
    PUBLISHED_AT,
    MESSAGE_ID,
    EXPIRES_AT,
    FAILED_AT,
    FAILURE,
    ATTEMPTS,
    RETRIED_AT,
    REPLAYS,
    REPLAYED_AT,
    DEFERRED_AT,
    DISCARDED_AT,
    DISCARD_REASON,
];
