//! The stored order and its event.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;
use outbox::timestamp::Timestamp;
use outbox::{Aggregate, EventError, NewEvent};
use serde::{Deserialize, Serialize};

use super::attribute::orders::{ITEMS, ITEMS_DIGEST, TOTAL_MINOR};
use super::lines_digest;
use super::values::{Currency, CustomerId, OrderId, Quantity, Sku, UnitPrice};

/// Status of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum OrderStatus {
    Created,
    /// Stock is reserved for every line.
    Processed,
    /// No stock was reserved; `rejection_reason` states why.
    Rejected,
}

impl OrderStatus {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "CREATED",
            Self::Processed => "PROCESSED",
            Self::Rejected => "REJECTED",
        }
    }
}

/// One line of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub sku: Sku,
    pub quantity: Quantity,
    pub unit_price_minor: UnitPrice,
}

/// A stored order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub order_id: OrderId,
    pub customer_id: CustomerId,
    pub status: OrderStatus,
    /// 1–50 lines, no SKU twice.
    pub items: Vec<Line>,
    pub currency: Currency,
    /// 1 when created; incremented by every change.
    pub version: u64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejection_reason: Option<String>,
    /// Trace id of the order's event, 32 hexadecimal digits, by which an operator finds the trace.
    /// Orders of earlier releases have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The pieces that the order holds of each SKU, from when it is PROCESSED until they are
    /// released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation: Option<BTreeMap<Sku, Quantity>>,
}

impl Order {
    /// Creates an order with a new id and the current time.
    pub fn create(customer_id: CustomerId, currency: Currency, items: Vec<Line>) -> Self {
        let now = Timestamp::now();
        Self {
            order_id: OrderId::generate(),
            customer_id,
            status: OrderStatus::Created,
            items,
            currency,
            version: 1,
            created_at: now,
            updated_at: now,
            rejection_reason: None,
            trace_id: None,
            reservation: None,
        }
    }

    /// Returns the order as it was created, which is the response to a repeated request, whatever
    /// has changed since.
    #[must_use]
    pub fn as_created(self) -> Self {
        Self {
            status: OrderStatus::Created,
            version: 1,
            updated_at: self.created_at,
            rejection_reason: None,
            reservation: None,
            ..self
        }
    }

    /// Returns the total price, in the currency's minor unit. 50 lines at their bounds total 5 ×
    /// 10^19, which exceeds 64 bits.
    pub fn total_minor(&self) -> u128 {
        self.items
            .iter()
            .map(|line| u128::from(line.quantity.get()) * u128::from(line.unit_price_minor.minor()))
            .sum()
    }

    /// Returns the DynamoDB item. `total_minor` and `items_digest` are stored for other readers and
    /// for conditions, and derived here, so that they always agree with the lines.
    pub fn to_item(&self) -> Result<HashMap<String, AttributeValue>, serde_dynamo::Error> {
        let mut item: HashMap<String, AttributeValue> =
            serde_dynamo::aws_sdk_dynamodb_1::to_item(self)?;
        item.insert(
            TOTAL_MINOR.to_owned(),
            AttributeValue::N(self.total_minor().to_string()),
        );
        let lines = self.items.iter().map(|line| (&line.sku, line.quantity));
        item.insert(
            ITEMS_DIGEST.to_owned(),
            AttributeValue::S(lines_digest(lines)),
        );
        Ok(item)
    }

    /// Reads a DynamoDB item.
    pub fn from_item(item: HashMap<String, AttributeValue>) -> Result<Self, serde_dynamo::Error> {
        serde_dynamo::aws_sdk_dynamodb_1::from_item(item)
    }

    /// Returns the `order.placed` event of a new order.
    pub fn placed(&self) -> Result<NewEvent, EventError> {
        #[derive(Serialize)]
        struct Data<'a> {
            order_id: OrderId,
            customer_id: &'a CustomerId,
            items: &'a [Line],
            currency: &'a Currency,
            total_minor: u128,
        }
        NewEvent::new(
            Aggregate {
                kind: "order",
                id: &self.order_id.to_string(),
            },
            self.version,
            OrderPlaced::EVENT_TYPE,
            &Data {
                order_id: self.order_id,
                customer_id: &self.customer_id,
                items: &self.items,
                currency: &self.currency,
                total_minor: self.total_minor(),
            },
        )
        .map(|event| event.with_occurred_at(self.created_at))
    }
}

/// The parts of `order.placed` that consumers use. Unknown members are ignored, as producers may
/// add some.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct OrderPlaced {
    pub order_id: OrderId,
    pub items: Vec<PlacedLine>,
}

/// One line of [`OrderPlaced`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PlacedLine {
    pub sku: Sku,
    pub quantity: Quantity,
}

impl OrderPlaced {
    pub const EVENT_TYPE: &str = "order.placed";

    /// Returns the digest that the stored order has if its lines are those of the event.
    pub fn items_digest(&self) -> String {
        lines_digest(self.items.iter().map(|line| (&line.sku, line.quantity)))
    }

    /// Returns `true` if a stored order has the lines of the event. Compares the lines themselves,
    /// for orders that were stored without a digest.
    pub fn has_lines_of(&self, stored: &HashMap<String, AttributeValue>) -> bool {
        let items: Option<Vec<PlacedLine>> = stored.get(ITEMS).and_then(|items| {
            serde_dynamo::aws_sdk_dynamodb_1::from_attribute_value(items.clone()).ok()
        });
        items.is_some_and(|items| {
            let lines = items.iter().map(|line| (&line.sku, line.quantity));
            lines_digest(lines) == self.items_digest()
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(lines: Vec<(u64, u64)>) -> Order {
        let items = lines
            .into_iter()
            .enumerate()
            .map(|(n, (quantity, price))| Line {
                sku: Sku::try_from(format!("SKU-{n}")).unwrap(),
                quantity: Quantity::try_from(quantity).unwrap(),
                unit_price_minor: UnitPrice::try_from(price).unwrap(),
            })
            .collect();
        Order::create(
            CustomerId::try_from("c-1".to_owned()).unwrap(),
            Currency::try_from("EUR".to_owned()).unwrap(),
            items,
        )
    }

    #[test]
    fn the_largest_order_has_an_exact_total() {
        let largest = order(vec![(1_000_000, 1_000_000_000_000); 50]);
        assert_eq!(largest.total_minor(), 50_000_000_000_000_000_000);
        let item = largest.to_item().unwrap();
        assert_eq!(
            item["total_minor"],
            AttributeValue::N("50000000000000000000".to_owned())
        );
    }

    #[test]
    fn a_repeated_request_gets_the_order_as_it_was_created() {
        let created = order(vec![(1, 1)]);
        let mut later = created.clone();
        later.status = OrderStatus::Rejected;
        later.version = 2;
        later.updated_at = Timestamp::from_millis(created.created_at.as_millis() + 5);
        later.rejection_reason = Some("no stock".to_owned());
        assert_eq!(later.as_created(), created);
    }

    #[test]
    fn the_item_has_the_documented_attributes() {
        use crate::order::attribute::orders::*;
        let mut order = order(vec![(1, 1)]);
        order.rejection_reason = Some("r".to_owned());
        order.reservation = Some(BTreeMap::new());
        let item = order.to_item().unwrap();
        for name in [
            ORDER_ID,
            STATUS,
            TOTAL_MINOR,
            VERSION,
            UPDATED_AT,
            REJECTION_REASON,
            ITEMS,
            ITEMS_DIGEST,
            RESERVATION,
        ] {
            assert!(item.contains_key(name), "{name}");
        }
    }

    #[test]
    fn an_event_has_the_lines_of_its_own_order_and_of_no_other() {
        let stored = order(vec![(2, 5), (3, 7)]);
        let event = |order: &Order| OrderPlaced {
            order_id: order.order_id,
            items: order
                .items
                .iter()
                .map(|line| PlacedLine {
                    sku: line.sku.clone(),
                    quantity: line.quantity,
                })
                .collect(),
        };
        let item = stored.to_item().unwrap();
        let own = event(&stored);
        assert_eq!(item["items_digest"], AttributeValue::S(own.items_digest()));
        assert!(own.has_lines_of(&item));
        for other in [
            vec![(2, 5), (4, 7)],
            vec![(2, 5)],
            vec![(2, 5), (3, 7), (1, 1)],
        ] {
            let other = event(&order(other));
            assert_ne!(other.items_digest(), own.items_digest());
            assert!(!other.has_lines_of(&item));
        }
        assert!(!own.has_lines_of(&HashMap::new()));
    }

    proptest! {
        #[test]
        fn a_stored_order_is_read_back_unchanged(
            lines in proptest::collection::vec((1u64..=1_000_000, 0u64..=1_000_000_000_000), 1..50),
            trace_id in proptest::option::of("[0-9a-f]{32}"),
            is_reserved in proptest::bool::ANY,
        ) {
            let mut order = order(lines);
            order.trace_id = trace_id;
            let reservation = order.items.iter().map(|line| (line.sku.clone(), line.quantity));
            order.reservation = is_reserved.then(|| reservation.collect());
            prop_assert_eq!(Order::from_item(order.to_item().unwrap()).unwrap(), order);
        }
    }
}
