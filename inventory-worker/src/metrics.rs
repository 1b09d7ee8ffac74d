//! The worker's metrics. Labels never carry ids.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter};
use opentelemetry_semantic_conventions::attribute::{
    ERROR_TYPE, MESSAGING_DESTINATION_NAME, MESSAGING_OPERATION_NAME, MESSAGING_SYSTEM,
};
use opentelemetry_semantic_conventions::metric::MESSAGING_PROCESS_DURATION;
use shared::runtime::telemetry::metrics::DURATION_BUCKETS;

use crate::attempt_error::AttemptError;
use crate::disposition::Disposition;

#[derive(Debug)]
pub(crate) struct Metrics {
    processed: Counter<u64>,
    duration: Histogram<f64>,
    /// Attributes that every duration has.
    queue: [KeyValue; 3],
    retries: Counter<u64>,
}

impl Metrics {
    pub(crate) fn new(meter: &Meter, queue_name: &str) -> Self {
        let processed = meter
            .u64_counter("orders.processed")
            .with_unit("{delivery}")
            .with_description("Deliveries of events, by outcome")
            .build();
        // A rate needs the zero before the first increment.
        for label in Disposition::LABELS {
            processed.add(0, &[KeyValue::new("outcome", label)]);
        }
        let retries = meter
            .u64_counter("worker.retries")
            .with_unit("{attempt}")
            .with_description("Transactions and rejections that failed and are repeated")
            .build();
        for kind in AttemptError::KINDS {
            retries.add(0, &[KeyValue::new("kind", kind)]);
        }
        Self {
            processed,
            duration: meter
                .f64_histogram(MESSAGING_PROCESS_DURATION)
                .with_description("Time from receiving a message to the end of its processing")
                .with_unit("s")
                .with_boundaries(DURATION_BUCKETS.to_vec())
                .build(),
            queue: [
                KeyValue::new(MESSAGING_OPERATION_NAME, "process"),
                KeyValue::new(MESSAGING_SYSTEM, "aws_sqs"),
                KeyValue::new(MESSAGING_DESTINATION_NAME, queue_name.to_owned()),
            ],
            retries,
        }
    }

    /// Records the end of one delivery.
    pub(crate) fn record(&self, disposition: &Disposition, duration: Duration) {
        let outcome = KeyValue::new("outcome", disposition.label());
        self.processed.add(1, std::slice::from_ref(&outcome));
        let error_type = disposition.error_type();
        let error_type = error_type.map(|error_type| KeyValue::new(ERROR_TYPE, error_type));
        let attributes: Vec<_> = self
            .queue
            .iter()
            .cloned()
            .chain([outcome])
            .chain(error_type)
            .collect();
        self.duration.record(duration.as_secs_f64(), &attributes);
    }

    /// Records a failed attempt that is repeated.
    pub(crate) fn record_retry(&self, error: &AttemptError) {
        if let Some(kind) = error.kind() {
            self.retries.add(1, &[KeyValue::new("kind", kind)]);
        }
    }
}
