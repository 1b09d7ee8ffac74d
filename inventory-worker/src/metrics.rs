//! The worker's metrics. Labels never carry ids.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter};
use shared::runtime::telemetry::metrics::DURATION_BUCKETS;

use crate::disposition::Disposition;

#[derive(Debug)]
pub(crate) struct Metrics {
    processed: Counter<u64>,
    duration: Histogram<f64>,
}

impl Metrics {
    pub(crate) fn new(meter: &Meter) -> Self {
        let processed = meter
            .u64_counter("orders_processed_total")
            .with_description("Deliveries of order.placed events, by outcome")
            .build();
        // A rate needs the zero before the first increment.
        for label in Disposition::LABELS {
            processed.add(0, &[KeyValue::new("outcome", label)]);
        }
        Self {
            processed,
            duration: meter
                .f64_histogram("messaging_process_duration_seconds")
                .with_description("Time from receiving a message to the end of its processing")
                .with_unit("s")
                .with_boundaries(DURATION_BUCKETS.to_vec())
                .build(),
        }
    }

    /// Records the end of one delivery.
    pub(crate) fn record(&self, disposition: &Disposition, duration: Duration) {
        let outcome = KeyValue::new("outcome", disposition.label());
        self.processed.add(1, &[outcome]);
        self.duration.record(duration.as_secs_f64(), &[]);
    }
}
