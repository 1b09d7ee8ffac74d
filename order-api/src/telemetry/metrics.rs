//! The API's metrics. Labels have few values and never contain ids.

use std::time::Duration;

use opentelemetry::metrics::{Counter, Histogram};
use opentelemetry::{KeyValue, global};

/// Upper bounds of the buckets, in seconds: those that OpenTelemetry recommends for HTTP servers,
/// and one more because POST usually takes a few milliseconds.
const BUCKETS: [f64; 15] = [
    0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

#[derive(Clone, Debug)]
pub(crate) struct Instruments {
    orders_created: Counter<u64>,
    request_duration: Histogram<f64>,
}

impl Instruments {
    /// Creates the instruments. Must be called after the global provider has been set.
    pub(crate) fn new() -> Self {
        let meter = global::meter("order-api");
        let instruments = Self {
            orders_created: meter
                .u64_counter("orders_created_total")
                .with_description("Orders created; repeated requests are not counted.")
                .build(),
            request_duration: meter
                .f64_histogram("http_server_request_duration_seconds")
                .with_description("Duration of HTTP requests, in seconds.")
                .with_boundaries(BUCKETS.to_vec())
                .build(),
        };
        // A rate needs the zero before the first order.
        instruments.orders_created.add(0, &[]);
        instruments
    }

    pub(crate) fn order_created(&self) {
        self.orders_created.add(1, &[]);
    }

    /// Records a request. `route` is the template; `None` if no route matched.
    pub(crate) fn request_finished(
        &self,
        method: &'static str,
        route: Option<&str>,
        status: u16,
        duration: Duration,
    ) {
        let method = KeyValue::new("http.request.method", method);
        let status = KeyValue::new("http.response.status_code", i64::from(status));
        let duration = duration.as_secs_f64();
        match route {
            Some(route) => {
                let route = KeyValue::new("http.route", route.to_owned());
                self.request_duration
                    .record(duration, &[method, status, route]);
            }
            None => self.request_duration.record(duration, &[method, status]),
        }
    }
}
