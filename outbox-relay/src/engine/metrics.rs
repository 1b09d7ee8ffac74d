//! The relay's instruments. Names are the contract's; labels never carry ids.

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter};
use outbox::timestamp::Timestamp;
use shared::runtime::telemetry::metrics::DURATION_BUCKETS;
use tokio::time::Instant;

use crate::engine::Status;

/// Reasons that an event is quarantined for.
const QUARANTINE_REASONS: [&str; 9] = [
    "malformed_item",
    "event_id",
    "empty_attribute",
    "not_json",
    "invalid_character",
    "too_large",
    "no_route",
    "fifo_id",
    "refused_by_queue",
];

/// The most common kinds of retries; a service's own codes come as they do.
const RETRY_KINDS: [&str; 4] = ["timeout", "connection", "mark", "quarantine"];

#[derive(Clone, Debug)]
pub(crate) struct RelayMetrics {
    published: Counter<u64>,
    quarantined: Counter<u64>,
    skipped: Counter<u64>,
    retries: Counter<u64>,
    lag: Histogram<f64>,
    gaps: Counter<u64>,
    leases_lost: Counter<u64>,
    checkpoint_failures: Counter<u64>,
}

impl RelayMetrics {
    /// Makes the instruments, and gauges that read `status`.
    pub(crate) fn new(meter: &Meter, status: &Status) -> Self {
        let held = status.clone();
        meter
            .u64_observable_gauge("outbox_shards_held")
            .with_description("Shards this instance reads.")
            .with_callback(move |gauge| gauge.observe(held.shards_held() as u64, &[]))
            .build();
        let slowest = status.clone();
        meter
            .f64_observable_gauge("outbox_shard_progress_seconds")
            .with_description("Longest time since a held shard was last read.")
            .with_callback(move |gauge| {
                gauge.observe(slowest.slowest_read(Instant::now()).as_secs_f64(), &[]);
            })
            .build();
        let pending = status.clone();
        meter
            .u64_observable_gauge("outbox_pending_events")
            .with_description(
                "Pending events in the table when last looked; very many are not all counted.",
            )
            .with_callback(move |gauge| gauge.observe(pending.pending_events(), &[]))
            .build();
        let oldest = status.clone();
        meter
            .f64_observable_gauge("outbox_oldest_pending_seconds")
            .with_description("Age of the oldest pending event; 0 when there is none.")
            .with_callback(move |gauge| {
                let age = oldest
                    .oldest_pending()
                    .map_or(0.0, |at| seconds_between(at, Timestamp::now()));
                gauge.observe(age, &[]);
            })
            .build();
        let failed = status.clone();
        meter
            .u64_observable_gauge("outbox_failed_events")
            .with_description(
                "Quarantined events in the table when last looked; very many are not all counted.",
            )
            .with_callback(move |gauge| gauge.observe(failed.failed_events(), &[]))
            .build();
        let counter = |name, description| {
            meter
                .u64_counter(name)
                .with_description(description)
                .build()
        };
        let metrics = Self {
            published: counter("outbox_events_published_total", "Events sent to a queue."),
            quarantined: counter(
                "outbox_events_quarantined_total",
                "Events that can never be sent as they are.",
            ),
            skipped: counter(
                "outbox_events_skipped_total",
                "Stream records that were nothing to publish.",
            ),
            retries: counter("outbox_publish_retries_total", "Sends to be tried again."),
            lag: meter
                .f64_histogram("outbox_publish_lag_seconds")
                .with_description("From when an event occurred to when it was published.")
                .with_boundaries(DURATION_BUCKETS.to_vec())
                .build(),
            gaps: counter(
                "outbox_stream_gaps_total",
                "Positions that were trimmed from the stream before they were read.",
            ),
            leases_lost: counter(
                "outbox_leases_lost_total",
                "Shards that another instance took from this one.",
            ),
            checkpoint_failures: counter(
                "outbox_checkpoint_failures_total",
                "Lease writes that failed.",
            ),
        };
        // A counter that was never added to is not there to be alerted on.
        for reason in QUARANTINE_REASONS {
            metrics
                .quarantined
                .add(0, &[KeyValue::new("reason", reason)]);
        }
        for kind in RETRY_KINDS {
            metrics.retries.add(0, &[KeyValue::new("kind", kind)]);
        }
        metrics.gaps.add(0, &[]);
        metrics.leases_lost.add(0, &[]);
        metrics.checkpoint_failures.add(0, &[]);
        metrics
    }

    pub(crate) fn published(&self, queue: &str, path: &'static str, lag_seconds: Option<f64>) {
        let labels = [
            KeyValue::new("queue", queue.to_owned()),
            KeyValue::new("path", path),
        ];
        self.published.add(1, &labels);
        if let Some(lag) = lag_seconds {
            self.lag.record(lag, &[]);
        }
    }

    pub(crate) fn quarantined(&self, reason: &'static str) {
        self.quarantined.add(1, &[KeyValue::new("reason", reason)]);
    }

    pub(crate) fn skipped(&self, reason: &'static str, count: u64) {
        self.skipped.add(count, &[KeyValue::new("reason", reason)]);
    }

    pub(crate) fn retried(&self, kind: &str, count: u64) {
        self.retries
            .add(count, &[KeyValue::new("kind", kind.to_owned())]);
    }

    pub(crate) fn gap(&self) {
        self.gaps.add(1, &[]);
    }

    pub(crate) fn lease_lost(&self) {
        self.leases_lost.add(1, &[]);
    }

    pub(crate) fn checkpoint_failed(&self) {
        self.checkpoint_failures.add(1, &[]);
    }
}

/// Seconds from `earlier` to `later`; 0 when clocks disagree.
pub(crate) fn seconds_between(earlier: Timestamp, later: Timestamp) -> f64 {
    let millis = later.as_millis().saturating_sub(earlier.as_millis()).max(0);
    std::time::Duration::from_millis(millis.unsigned_abs()).as_secs_f64()
}
