//! Schemas of the request and response bodies, for the OpenAPI document.
//!
//! Bodies are read by `validate` and written by `response`; the types here only document them. A
//! test compares the numbers with the domain's bounds.

use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

/// The order to place. Unknown members are rejected.
#[derive(ToSchema)]
#[schema(example = json!({
    "customer_id": "c-1",
    "currency": "EUR",
    "items": [{"sku": "WIDGET-1", "quantity": 2, "unit_price_minor": 1999}]
}))]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "documents what `validate` reads")]
pub(crate) struct NewOrder {
    /// The customer who orders.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9._-]{1,64}$")]
    customer_id: String,
    #[schema(schema_with = currency_codes)]
    currency: String,
    /// Each SKU at most once. The sum of `quantity` × `unit_price_minor` is at most
    /// 9007199254740991 (2^53 − 1).
    #[schema(value_type = BTreeSet<Line>, min_items = 1, max_items = 50)]
    items: Vec<Line>,
}

/// Returns the schema of a currency: all codes of ISO 4217. The crate with them lists them only
/// with a further dependency, so they are found by trying every code.
fn currency_codes() -> Object {
    let letters = || 'A'..='Z';
    let codes = letters().flat_map(|a| letters().map(move |b| (a, b)));
    let codes = codes.flat_map(|(a, b)| letters().map(move |c| format!("{a}{b}{c}")));
    let listed = codes.filter(|code| iso_currency::Currency::from_code(code).is_some());
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some("Currency code (ISO 4217)."))
        .enum_values(Some(listed))
        .build()
}

/// One line of an order.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "documents what `validate` reads")]
pub(crate) struct Line {
    /// The product.
    #[schema(
        min_length = 1,
        max_length = 64,
        pattern = "^[A-Za-z0-9._-]{1,64}$",
        example = "WIDGET-1"
    )]
    sku: String,
    #[schema(minimum = 1, maximum = 1_000_000, example = 2)]
    quantity: u32,
    /// Price of one piece, in the currency's minor unit.
    #[schema(minimum = 0, maximum = 1_000_000_000_000_u64, example = 1999)]
    unit_price_minor: u64,
}

/// Status of an order.
#[derive(ToSchema)]
#[serde(rename_all = "UPPERCASE")]
#[expect(dead_code, reason = "documents what `response` writes")]
pub(crate) enum OrderStatus {
    Created,
    Processed,
    Rejected,
}

/// A stored order.
#[derive(ToSchema)]
#[schema(example = json!({
    "order_id": "0197f2f0-7b1c-7c3e-9d2a-3f1b5c7d9e0f",
    "customer_id": "c-1",
    "status": "CREATED",
    "items": [{"sku": "WIDGET-1", "quantity": 2, "unit_price_minor": 1999}],
    "currency": "EUR",
    "total_minor": 3998,
    "version": 1,
    "created_at": "2026-01-31T08:15:30.123Z",
    "updated_at": "2026-01-31T08:15:30.123Z",
    "trace_id": "0af7651916cd43dd8448eb211c80319c"
}))]
#[expect(dead_code, reason = "documents what `response` writes")]
pub(crate) struct Order {
    #[schema(format = "uuid")]
    order_id: String,
    customer_id: String,
    status: OrderStatus,
    items: Vec<Line>,
    currency: String,
    /// Sum of the lines, in the currency's minor unit.
    #[schema(minimum = 0, maximum = 9_007_199_254_740_991_u64)]
    total_minor: u64,
    /// 1 when created; incremented by every change.
    #[schema(minimum = 1)]
    version: u64,
    /// RFC 3339, UTC, milliseconds.
    #[schema(format = DateTime)]
    created_at: String,
    /// RFC 3339, UTC, milliseconds.
    #[schema(format = DateTime)]
    updated_at: String,
    /// Reason for which no stock was reserved; only if `REJECTED`.
    #[schema(required = false, nullable = false)]
    rejection_reason: Option<String>,
    /// W3C trace id of placing and processing the order.
    #[schema(required = false, nullable = false, pattern = "^[0-9a-f]{32}$")]
    trace_id: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use shared::order::{MAX_LINES, MAX_QUANTITY, MAX_UNIT_PRICE_MINOR};
    use utoipa::OpenApi;

    use super::*;
    use crate::validate::MAX_TOTAL_MINOR;

    #[derive(OpenApi)]
    #[openapi(components(schemas(NewOrder, Order)))]
    struct OrderDocument;

    #[test]
    fn documented_bounds_equal_those_of_the_domain() {
        let document = serde_json::to_value(OrderDocument::openapi()).unwrap();
        let bound = |pointer: &str| {
            let schemas = &document["components"]["schemas"];
            schemas.pointer(pointer).and_then(Value::as_u64)
        };
        let total = "/Order/properties/total_minor/maximum";
        let items = &document["components"]["schemas"]["NewOrder"]["properties"]["items"];
        assert_eq!(items["uniqueItems"], true);
        let codes = &document["components"]["schemas"]["NewOrder"]["properties"]["currency"];
        let codes = codes["enum"].as_array().unwrap();
        assert!(codes.len() > 150, "{}", codes.len());
        assert!(codes.contains(&"EUR".into()) && !codes.contains(&"ZZZ".into()));
        assert_eq!(bound(total), Some(MAX_TOTAL_MINOR));
        let lines = Some(MAX_LINES as u64);
        assert_eq!(bound("/NewOrder/properties/items/maxItems"), lines);
        let quantity = Some(u64::from(MAX_QUANTITY));
        assert_eq!(bound("/Line/properties/quantity/maximum"), quantity);
        let price = Some(MAX_UNIT_PRICE_MINOR);
        assert_eq!(bound("/Line/properties/unit_price_minor/maximum"), price);
    }
}
