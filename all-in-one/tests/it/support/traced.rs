//! The three services with a collector for their spans.

use serde_json::Value;
use test_support::{PATIENCE, Service, eventually};

use super::{Stack, order_body};
use crate::collector::{Collector, Span};

pub(crate) struct Traced {
    pub(crate) collector: Collector,
    pub(crate) stack: Stack,
    pub(crate) api: Service,
    pub(crate) relay: Service,
    pub(crate) worker: Service,
}

/// A placed order and the trace id in its response.
pub(crate) struct Placed {
    pub(crate) id: String,
    pub(crate) trace: String,
}

impl Traced {
    /// Starts the services with additional variables for all three.
    pub(crate) async fn start(environment: &[(&str, &str)]) -> Self {
        let collector = Collector::start().await;
        let own = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint.as_str()),
            // Milliseconds; the default is 5 s.
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ];
        let stack = Stack::start(&[&own[..], environment].concat()).await;
        Self {
            api: stack.service("order-api").await,
            relay: stack.service("outbox-relay").await,
            worker: stack.service("inventory-worker").await,
            collector,
            stack,
        }
    }

    /// Posts an order.
    pub(crate) async fn place(&self, traceparent: Option<&str>) -> Placed {
        let mut request = reqwest::Client::new()
            .post(self.api.url("/orders"))
            .json(&order_body(1));
        if let Some(traceparent) = traceparent {
            request = request.header("traceparent", traceparent);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 201);
        let order: Value = answer.json().await.unwrap();
        let text = |name: &str| order[name].as_str().unwrap().to_owned();
        Placed {
            id: text("order_id"),
            trace: text("trace_id"),
        }
    }

    /// Waits until no order is CREATED and no event is PENDING.
    pub(crate) async fn settled(&self) {
        let settled = eventually(PATIENCE, || async {
            let orders = self.stack.without_status("orders", "PROCESSED").await;
            let events = self.stack.without_status("outbox", "PUBLISHED").await;
            if (orders, events) == (0, 0) {
                Ok(())
            } else {
                Err((orders, events, self.relay.log(), self.worker.log()))
            }
        });
        settled.await.unwrap();
    }

    /// Returns all spans once `is_complete` holds.
    pub(crate) async fn spans(&self, is_complete: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let arrived = eventually(PATIENCE, || async {
            let spans = self.collector.spans();
            if is_complete(&spans) {
                Ok(spans)
            } else {
                Err(spans)
            }
        });
        arrived
            .await
            .unwrap_or_else(|spans| panic!("not all spans arrived: {spans:#?}"))
    }
}
