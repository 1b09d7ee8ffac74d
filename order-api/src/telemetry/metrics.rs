//! The API's metrics. Labels have few values and never contain ids.

use std::time::Duration;

use opentelemetry::metrics::{Counter, Histogram, UpDownCounter};
use opentelemetry::{KeyValue, global};
use opentelemetry_semantic_conventions::attribute::{
    ERROR_TYPE, HTTP_REQUEST_METHOD, HTTP_RESPONSE_STATUS_CODE, HTTP_ROUTE, URL_SCHEME,
};
use opentelemetry_semantic_conventions::metric::{
    HTTP_SERVER_ACTIVE_REQUESTS, HTTP_SERVER_REQUEST_DURATION,
};

/// Upper bounds of the buckets, in seconds: those that OpenTelemetry recommends for HTTP servers,
/// and one more because POST usually takes a few milliseconds.
const BUCKETS: [f64; 15] = [
    0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// The API serves HTTP; a load balancer in front of it may serve HTTPS.
pub(super) const SCHEME: &str = "http";

#[derive(Clone, Debug)]
pub(crate) struct Instruments {
    orders_created: Counter<u64>,
    request_duration: Histogram<f64>,
    active_requests: UpDownCounter<i64>,
}

/// End of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    /// `None` if the client disconnected before the response.
    pub(super) status: Option<u16>,
    pub(super) error_type: Option<&'static str>,
}

impl Instruments {
    /// Creates the instruments. Must be called after the global provider has been set.
    pub(crate) fn new() -> Self {
        let meter = global::meter("order-api");
        let instruments = Self {
            orders_created: meter
                .u64_counter("orders.created")
                .with_unit("{order}")
                .with_description("Orders created; repeated requests are not counted.")
                .build(),
            request_duration: meter
                .f64_histogram(HTTP_SERVER_REQUEST_DURATION)
                .with_unit("s")
                .with_description("Duration of HTTP requests.")
                .with_boundaries(BUCKETS.to_vec())
                .build(),
            active_requests: meter
                .i64_up_down_counter(HTTP_SERVER_ACTIVE_REQUESTS)
                .with_unit("{request}")
                .with_description("HTTP requests that are being served.")
                .build(),
        };
        // A rate needs the zero before the first order.
        instruments.orders_created.add(0, &[]);
        instruments
    }

    pub(crate) fn order_created(&self) {
        self.orders_created.add(1, &[]);
    }

    pub(super) fn request_started(&self, method: &'static str) {
        self.active_requests.add(1, &request(method));
    }

    /// Records a request. `route` is the template; `None` if no route matched.
    pub(super) fn request_ended(
        &self,
        method: &'static str,
        route: Option<&str>,
        ended: Ended,
        duration: Duration,
    ) {
        let request = request(method);
        self.active_requests.add(-1, &request);
        let route = route.map(|route| KeyValue::new(HTTP_ROUTE, route.to_owned()));
        let status = ended
            .status
            .map(|status| KeyValue::new(HTTP_RESPONSE_STATUS_CODE, i64::from(status)));
        let error_type = ended
            .error_type
            .map(|error_type| KeyValue::new(ERROR_TYPE, error_type));
        let attributes: Vec<_> = request
            .into_iter()
            .chain(route)
            .chain(status)
            .chain(error_type)
            .collect();
        self.request_duration
            .record(duration.as_secs_f64(), &attributes);
    }
}

fn request(method: &'static str) -> [KeyValue; 2] {
    [
        KeyValue::new(HTTP_REQUEST_METHOD, method),
        KeyValue::new(URL_SCHEME, SCHEME),
    ]
}
