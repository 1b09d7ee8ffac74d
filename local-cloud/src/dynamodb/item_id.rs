//! Identity of an item: its table and primary key.

use std::collections::BTreeMap;

use dynoxide::AttributeValue;
use dynoxide::types::validate_dynamo_number;
use serde_json::value::RawValue;

use super::key_schemas::KeySchema;

/// Attributes of a request, of which only the keys are read.
pub(super) type Attributes<'a> = BTreeMap<String, &'a RawValue>;

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

    /// Reads the key from an item, or from the key of one. Returns `None` if an attribute is
    /// missing or cannot be a key, for which dynoxide rejects the request.
    pub(super) fn of(table: &str, schema: &KeySchema, item: &Attributes<'_>) -> Option<Self> {
        let key = |name: &String| key_text(&serde_json::from_str(item.get(name)?.get()).ok()?);
        let sort_key = schema.sort_key.as_ref().map_or(Some(String::new()), key)?;
        Some(Self::new(table, &key(&schema.partition_key)?, &sort_key))
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
