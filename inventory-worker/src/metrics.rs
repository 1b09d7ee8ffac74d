//! What is counted. Labels never carry ids.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter};
use shared::runtime::telemetry::metrics::DURATION_BUCKETS;

/// How a delivery ended: the label `outcome`, and the span's `outbox.outcome`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ended {
    Processed,
    Rejected,
    Duplicate,
    /// Left for the dead-letter queue: no event of the contract.
    Unreadable,
    /// Given back or left, without an effect.
    Failed,
}

impl Ended {
    const ALL: [Self; 5] = [
        Self::Processed,
        Self::Rejected,
        Self::Duplicate,
        Self::Unreadable,
        Self::Failed,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Processed => "processed",
            Self::Rejected => "rejected",
            Self::Duplicate => "duplicate",
            Self::Unreadable => "unreadable",
            Self::Failed => "failed",
        }
    }

    fn label(self) -> KeyValue {
        KeyValue::new("outcome", self.as_str())
    }
}

#[derive(Debug)]
pub(crate) struct Metrics {
    processed: Counter<u64>,
    duration: Histogram<f64>,
}

impl Metrics {
    pub(crate) fn new(meter: &Meter) -> Self {
        let processed = meter
            .u64_counter("orders_processed_total")
            .with_description("Deliveries of order.placed events by how they ended")
            .build();
        // A rate needs the zero before the first one.
        for ended in Ended::ALL {
            processed.add(0, &[ended.label()]);
        }
        Self {
            processed,
            duration: meter
                .f64_histogram("messaging_process_duration_seconds")
                .with_description("Time from a message's arrival to its end in this process")
                .with_unit("s")
                .with_boundaries(DURATION_BUCKETS.to_vec())
                .build(),
        }
    }

    pub(crate) fn ended(&self, ended: Ended, took: Duration) {
        self.processed.add(1, &[ended.label()]);
        self.duration.record(took.as_secs_f64(), &[]);
    }
}
