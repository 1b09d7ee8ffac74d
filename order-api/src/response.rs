//! The order as clients receive it.

use axum::http::HeaderName;
use axum::http::header::CACHE_CONTROL;
use outbox::timestamp::Timestamp;
use serde::Serialize;
use shared::order::{Currency, CustomerId, Line, Order, OrderId, OrderStatus};

/// Header of every response about an order, also of an error: a cache cannot check who may read it.
pub(crate) const NO_STORE: (HeaderName, &str) = (CACHE_CONTROL, "no-store");

/// Body of a response with an order. `schema::Order` documents it.
#[derive(Debug, Serialize)]
pub(crate) struct OrderView<'a> {
    order_id: OrderId,
    customer_id: &'a CustomerId,
    status: OrderStatus,
    items: &'a [Line],
    currency: &'a Currency,
    /// May exceed 64 bits, so it must not pass through `serde_json::Value`.
    total_minor: u128,
    version: u64,
    created_at: Timestamp,
    updated_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    rejection_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
}

impl<'a> From<&'a Order> for OrderView<'a> {
    fn from(order: &'a Order) -> Self {
        Self {
            order_id: order.order_id,
            customer_id: &order.customer_id,
            status: order.status,
            items: &order.items,
            currency: &order.currency,
            total_minor: order.total_minor(),
            version: order.version,
            created_at: order.created_at,
            updated_at: order.updated_at,
            rejection_reason: order.rejection_reason.as_deref(),
            trace_id: order.trace_id.as_deref(),
        }
    }
}
