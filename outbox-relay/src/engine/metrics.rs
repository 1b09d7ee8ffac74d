//! Instruments of the relay. Labels never contain ids.

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter};
use outbox::timestamp::Timestamp;
use shared::runtime::telemetry::metrics::DURATION_BUCKETS;
use tokio::time::Instant;

use super::buffer_budget::BufferBudget;
use super::health::status::EngineStatus;
use crate::routes::QueueRef;

/// Reasons for which events are quarantined.
const QUARANTINE_REASONS: [&str; 9] = [
    "malformed_item",
    "event_id",
    "empty_attribute",
    "not_json",
    "invalid_character",
    "too_large",
    "quarantine_route",
    "fifo_id",
    "refused_by_queue",
];

/// Most common kinds of retries. Other kinds are error codes of the services.
const RETRY_KINDS: [&str; 5] = ["timeout", "connection", "mark", "defer", "quarantine"];

#[derive(Clone, Debug)]
pub(crate) struct RelayMetrics {
    published: Counter<u64>,
    quarantined: Counter<u64>,
    deferred: Counter<u64>,
    skipped: Counter<u64>,
    retries: Counter<u64>,
    lag: Histogram<f64>,
    gaps: Counter<u64>,
    leases_lost: Counter<u64>,
    checkpoint_failures: Counter<u64>,
}

impl RelayMetrics {
    /// Creates the instruments, and gauges that read `status` and `budget`. `queues` are those of
    /// the routes, and `clock` is the wall clock.
    pub(crate) fn new(
        meter: &Meter,
        status: &EngineStatus,
        budget: &BufferBudget,
        queues: Vec<QueueRef>,
        clock: fn() -> Timestamp,
    ) -> Self {
        let metrics = Self::counters(meter);
        metrics.start_at_zero(&queues);
        observe_status(meter, status, queues, clock);
        observe_budget(meter, budget.clone());
        metrics
    }

    fn counters(meter: &Meter) -> Self {
        let counter = |name, unit, description| {
            meter
                .u64_counter(name)
                .with_unit(unit)
                .with_description(description)
                .build()
        };
        Self {
            published: counter(
                "outbox.events.published",
                "{event}",
                "Events sent to a queue.",
            ),
            quarantined: counter(
                "outbox.events.quarantined",
                "{event}",
                "Events that can never be sent as they are.",
            ),
            deferred: counter(
                "outbox.events.deferred",
                "{event}",
                "Events deferred because their queue is unavailable or slow, they have no route, or an earlier event of their aggregate waits.",
            ),
            skipped: counter(
                "outbox.events.skipped",
                "{record}",
                "Stream records that were not published.",
            ),
            retries: counter(
                "outbox.publish.retries",
                "{event}",
                "Failed sends and writes that are retried.",
            ),
            lag: meter
                .f64_histogram("outbox.publish.lag")
                .with_unit("s")
                .with_description("Time from the occurrence of an event to its publication.")
                .with_boundaries(DURATION_BUCKETS.to_vec())
                .build(),
            gaps: counter(
                "outbox.stream.gaps",
                "{gap}",
                "Stream positions that were trimmed before they were read.",
            ),
            leases_lost: counter(
                "outbox.leases.lost",
                "{lease}",
                "Leases that another instance acquired from this one.",
            ),
            checkpoint_failures: counter(
                "outbox.checkpoint.failures",
                "{failure}",
                "Lease writes that failed.",
            ),
        }
    }

    /// Exports the counters whose labels are known: a counter is exported only after its first
    /// addition, and alerts need all of them.
    fn start_at_zero(&self, queues: &[QueueRef]) {
        for reason in QUARANTINE_REASONS {
            self.quarantined.add(0, &[KeyValue::new("reason", reason)]);
        }
        for kind in RETRY_KINDS {
            self.retries.add(0, &[KeyValue::new("kind", kind)]);
        }
        self.gaps.add(0, &[]);
        self.leases_lost.add(0, &[]);
        self.checkpoint_failures.add(0, &[]);
        for queue in queues.iter().chain([&QueueRef::unrouted()]) {
            let label = KeyValue::new("queue", queue.name().to_owned());
            self.deferred.add(0, &[label]);
        }
    }

    pub(crate) fn record_published(
        &self,
        queue: &str,
        path: &'static str,
        lag_seconds: Option<f64>,
    ) {
        let labels = [
            KeyValue::new("queue", queue.to_owned()),
            KeyValue::new("path", path),
        ];
        self.published.add(1, &labels);
        if let Some(lag) = lag_seconds {
            self.lag.record(lag, &[]);
        }
    }

    pub(crate) fn record_quarantined(&self, reason: &'static str) {
        self.quarantined.add(1, &[KeyValue::new("reason", reason)]);
    }

    pub(crate) fn record_deferred(&self, queue: &QueueRef) {
        let label = KeyValue::new("queue", queue.name().to_owned());
        self.deferred.add(1, &[label]);
    }

    pub(crate) fn record_skipped(&self, reason: &'static str, count: u64) {
        self.skipped.add(count, &[KeyValue::new("reason", reason)]);
    }

    pub(crate) fn record_retries(&self, kind: &str, count: u64) {
        self.retries
            .add(count, &[KeyValue::new("kind", kind.to_owned())]);
    }

    pub(crate) fn record_gap(&self) {
        self.gaps.add(1, &[]);
    }

    pub(crate) fn record_lease_lost(&self) {
        self.leases_lost.add(1, &[]);
    }

    pub(crate) fn record_checkpoint_failure(&self) {
        self.checkpoint_failures.add(1, &[]);
    }
}

/// Returns the seconds from `earlier` to `later`, or 0 if the clocks disagree.
pub(crate) fn seconds_between(earlier: Timestamp, later: Timestamp) -> f64 {
    let millis = later.as_millis().saturating_sub(earlier.as_millis()).max(0);
    std::time::Duration::from_millis(millis.unsigned_abs()).as_secs_f64()
}

/// Creates the gauges that read `status`.
fn observe_status(
    meter: &Meter,
    status: &EngineStatus,
    queues: Vec<QueueRef>,
    clock: fn() -> Timestamp,
) {
    let held = status.clone();
    meter
        .u64_observable_gauge("outbox.shards.held")
        .with_unit("{shard}")
        .with_description("Shards this instance reads.")
        .with_callback(move |gauge| gauge.observe(held.shards_held() as u64, &[]))
        .build();
    let unread = status.clone();
    meter
        .f64_observable_gauge("outbox.shard.progress")
        .with_unit("s")
        .with_description("Longest time since the last read of a held shard.")
        .with_callback(move |gauge| {
            gauge.observe(unread.longest_since_read(Instant::now()).as_secs_f64(), &[]);
        })
        .build();
    // Only the instance that counts for the group exports these three.
    let pending = status.clone();
    meter
        .u64_observable_gauge("outbox.pending.events")
        .with_unit("{event}")
        .with_description(
            "Pending events in the table at the last count; a lower bound for large backlogs.",
        )
        .with_callback(move |gauge| {
            if let Some(counts) = pending.counts() {
                gauge.observe(counts.pending, &[]);
            }
        })
        .build();
    let oldest = status.clone();
    meter
        .f64_observable_gauge("outbox.oldest_pending")
        .with_unit("s")
        .with_description("Age of the oldest pending event; 0 if there is none.")
        .with_callback(move |gauge| {
            if let Some(counts) = oldest.counts() {
                let age = counts
                    .oldest_pending
                    .map_or(0.0, |at| seconds_between(at, clock()));
                gauge.observe(age, &[]);
            }
        })
        .build();
    let failed = status.clone();
    meter
        .u64_observable_gauge("outbox.failed.events")
        .with_unit("{event}")
        .with_description(
            "Quarantined events in the table at the last count; a lower bound for large numbers.",
        )
        .with_callback(move |gauge| {
            if let Some(counts) = failed.counts() {
                gauge.observe(counts.failed, &[]);
            }
        })
        .build();
    let available = status.clone();
    meter
        .u64_observable_gauge("outbox.queue.available")
        .with_description("1 if the queue accepts events; 0 if it fails, or events have no route.")
        .with_callback(move |gauge| {
            let observe = |queue: &QueueRef, is_available| {
                let label = KeyValue::new("queue", queue.name().to_owned());
                gauge.observe(u64::from(is_available), &[label]);
            };
            for queue in &queues {
                observe(queue, available.is_available(queue));
            }
            if available.has_unrouted(Instant::now()) {
                observe(&QueueRef::unrouted(), false);
            }
        })
        .build();
}

/// Creates the gauge that reads `budget`.
fn observe_budget(meter: &Meter, budget: BufferBudget) {
    meter
        .f64_observable_gauge("outbox.budget.utilization")
        .with_unit("1")
        .with_description(
            "Fraction in use of what an instance may hold in memory (`events`, `pages`) and have in \
             flight (`reads` of the stream, `look_ups` in the table).",
        )
        .with_callback(move |gauge| {
            for (name, fraction) in budget.utilization() {
                gauge.observe(fraction, &[KeyValue::new("budget", name)]);
            }
        })
        .build();
}
