//! The transaction of a batch. It is built once, and sent unchanged, with the same token, until its
//! outcome is known.

use std::collections::BTreeMap;
use std::sync::Arc;

use outbox::timestamp::Timestamp;
use shared::order::{OrderPlaced, Sku};
use uuid::Uuid;

/// Condition by which the transaction checks that a message agrees with the stored order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinesCheck {
    /// By the digest that is stored with the order.
    Digest,
    /// The order was stored by an earlier release, without a digest, and its lines were compared.
    Compared,
}

/// One order of a transaction.
#[derive(Clone, Debug)]
pub(crate) struct TransactionOrder {
    pub order: Arc<OrderPlaced>,
    pub check: LinesCheck,
}

/// Sets orders PROCESSED and moves their stock, all or nothing.
#[derive(Debug)]
pub(crate) struct Transaction {
    /// In the order of arrival.
    pub orders: Vec<TransactionOrder>,
    /// Pieces to reserve, summed over the orders.
    pub stock: BTreeMap<Sku, u64>,
    /// Idempotency token: DynamoDB responds with success to a repetition of a transaction that
    /// took effect within the last 10 minutes.
    pub token: String,
    pub at: Timestamp,
}

impl Transaction {
    /// Builds the transaction of `orders`.
    ///
    /// The token of a single order is its id. A batch needs a token of its own: the id of one of
    /// its orders would be rejected as soon as the order is in another batch, because a token
    /// belongs to one content.
    pub(crate) fn new(orders: Vec<TransactionOrder>) -> Self {
        let mut stock: BTreeMap<Sku, u64> = BTreeMap::new();
        for line in orders.iter().flat_map(|order| &order.order.items) {
            *stock.entry(line.sku.clone()).or_default() += u64::from(line.quantity.get());
        }
        let token = match orders.as_slice() {
            [single] => single.order.order_id.to_string(),
            _ => new_token(),
        };
        Self {
            orders,
            stock,
            token,
            at: Timestamp::now(),
        }
    }

    /// Replaces the token after DynamoDB reported that it belongs to another content: an earlier
    /// delivery of the order, perhaps to another worker, sent it at another time.
    pub(crate) fn renew_token(&mut self) {
        self.token = new_token();
    }
}

fn new_token() -> String {
    Uuid::now_v7().to_string()
}

#[cfg(test)]
mod tests {
    use shared::order::{OrderId, PlacedLine};

    use super::*;

    fn order(lines: &[(&str, u64)]) -> TransactionOrder {
        let items = lines.iter().map(|(sku, quantity)| PlacedLine {
            sku: Sku::try_from((*sku).to_owned()).unwrap(),
            quantity: (*quantity).try_into().unwrap(),
        });
        TransactionOrder {
            order: Arc::new(OrderPlaced {
                order_id: OrderId::generate(),
                items: items.collect(),
            }),
            check: LinesCheck::Digest,
        }
    }

    #[test]
    fn the_stock_is_summed_by_sku() {
        let orders = vec![
            order(&[("A", 1_000_000), ("B", 2)]),
            order(&[("A", 1_000_000)]),
        ];
        let stock = Transaction::new(orders).stock;
        let sums: Vec<_> = stock
            .iter()
            .map(|(sku, sum)| (sku.as_str(), *sum))
            .collect();
        assert_eq!(sums, [("A", 2_000_000), ("B", 2)]);
    }

    #[test]
    fn the_token_is_the_id_of_a_single_order_and_belongs_to_one_batch_otherwise() {
        let orders = [order(&[("A", 1)]), order(&[("A", 1)])];
        let id = orders[0].order.order_id.to_string();
        let single = Transaction::new(orders[..1].to_vec());
        assert_eq!(single.token, id);
        let batch = Transaction::new(orders.to_vec());
        let again = Transaction::new(orders.to_vec());
        assert!(
            !orders
                .iter()
                .any(|o| o.order.order_id.to_string() == batch.token)
        );
        assert_ne!(batch.token, again.token);
        // DynamoDB's limit.
        assert!(batch.token.len() <= 36);
    }
}
