//! Attribute values, keys and projections of requests.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use outbox::item::attribute;

use crate::{EventKey, Item};

/// Returns a string attribute.
pub(super) fn string(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

/// Returns a number attribute.
pub(super) fn number(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

/// Returns the primary key of an event.
pub(super) fn item_key(key: &EventKey) -> Item {
    HashMap::from([
        (
            attribute::AGGREGATE_ID.to_owned(),
            string(&key.aggregate_id),
        ),
        (attribute::SEQUENCE.to_owned(), number(&key.sequence)),
    ])
}

/// Returns a projection expression of `attributes`, and its names.
pub(super) fn projection(attributes: &[&str]) -> (String, HashMap<String, String>) {
    let placeholders: Vec<_> = (0..attributes.len()).map(|n| format!("#p{n}")).collect();
    let names = placeholders.iter().cloned();
    let names = names.zip(attributes.iter().map(|&name| name.to_owned()));
    (placeholders.join(", "), names.collect())
}
