//! Identity of an item: its table and primary key.

use dynoxide::types::validate_dynamo_number;
use dynoxide::{AttributeValue, Item};

use super::table_schemas::TableSchema;

/// Table and primary key of an item. Equal for equal keys, regardless of how numbers are written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ItemId(String);

impl ItemId {
    /// Returns the identity for keys in the form of [`key_text`].
    pub(super) fn new(table: &str, partition_key: &str, sort_key: &str) -> Self {
        // The length separates the keys, which can contain any character.
        let length = partition_key.len();
        Self(format!("{table}/{length}/{partition_key}/{sort_key}"))
    }

    /// Returns the identity of the item with this key, or `None` if an attribute is missing or
    /// cannot be a key, for which dynoxide rejects the request.
    pub(super) fn of(schema: &TableSchema, key: &Item) -> Option<Self> {
        let text = |name: &String| key_text(key.get(name)?);
        let sort_key = schema.sort_key.as_ref().map_or(Some(String::new()), text)?;
        let partition_key = text(&schema.partition_key)?;
        Some(Self::new(&schema.name, &partition_key, &sort_key))
    }
}

/// Returns the text of a key attribute, equal for equal values.
pub(super) fn key_text(value: &AttributeValue) -> Option<String> {
    if let AttributeValue::N(number) = value {
        validate_dynamo_number(number).ok()?;
    }
    value.to_key_string()
}

/// Returns the name of a table that is given as its name or its ARN.
pub(super) fn table_name(name_or_arn: &str) -> &str {
    let is_arn = name_or_arn.starts_with("arn:");
    let after_table = name_or_arn.split('/').nth(1);
    after_table.filter(|_| is_arn).unwrap_or(name_or_arn)
}
