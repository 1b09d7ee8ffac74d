//! Items of the outbox table and their keys, whatever their writer made of them.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use outbox::item::attribute;

/// A stored item.
pub type Item = HashMap<String, AttributeValue>;

/// The primary key of an outbox item.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventKey {
    pub aggregate_id: String,
    /// The number as stored: the sequence of a malformed item may be any number.
    pub sequence: String,
}

/// Characters of a number that may be a sequence.
const MAX_NUMBER: usize = 40;

/// Digits that DynamoDB keeps of a number.
const MAX_DIGITS: usize = 38;

impl EventKey {
    /// Returns the primary key of an item, or `None` if it has none.
    pub(crate) fn of(item: &Item) -> Option<Self> {
        Some(Self {
            aggregate_id: text(item, attribute::AGGREGATE_ID)?,
            sequence: item.get(attribute::SEQUENCE)?.as_n().ok()?.clone(),
        })
    }

    /// Returns the key that a default event id, `<aggregate id>:<sequence>`, contains.
    pub fn of_default_event_id(event_id: &str) -> Option<Self> {
        let (aggregate_id, sequence) = event_id.rsplit_once(':')?;
        (is_number(sequence) && !aggregate_id.is_empty()).then(|| Self {
            aggregate_id: aggregate_id.to_owned(),
            sequence: sequence.to_owned(),
        })
    }
}

/// Returns `true` if DynamoDB accepts `text` as a number in a key. It need not be a whole number:
/// the sequence may be what is malformed about an event.
pub fn is_number(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_digit() || matches!(c, b'-' | b'+' | b'.' | b'e' | b'E');
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    let mut digits = mantissa.bytes().filter(u8::is_ascii_digit);
    text.len() <= MAX_NUMBER
        && text.bytes().all(plain)
        && digits.clone().count() <= MAX_DIGITS
        && text.parse::<f64>().is_ok_and(|number| {
            // The range of magnitudes of DynamoDB's numbers.
            (1e-130..1e125).contains(&number.abs()) || digits.all(|digit| digit == b'0')
        })
}

/// Returns the attribute `name` if it is a string.
pub(crate) fn text(item: &Item, name: &str) -> Option<String> {
    item.get(name)?.as_s().ok().cloned()
}

/// Returns the attribute `name` if it is a number that `T` can represent.
pub(crate) fn number<T: std::str::FromStr>(item: &Item, name: &str) -> Option<T> {
    item.get(name)?.as_n().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_event_id_contains_its_key() {
        let key = EventKey::of_default_event_id("a:b:7").unwrap();
        assert_eq!(
            (key.aggregate_id.as_str(), key.sequence.as_str()),
            ("a:b", "7")
        );
        let key = EventKey::of_default_event_id("a:1.5").unwrap();
        assert_eq!(key.sequence, "1.5");
        for other in ["a", "a:", ":7", "a:7x", "a:inf", "a:1E200"] {
            assert_eq!(EventKey::of_default_event_id(other), None, "{other}");
        }
    }

    #[test]
    fn only_numbers_within_the_limits_of_dynamodb_are_accepted() {
        let digits = "9".repeat(MAX_DIGITS);
        for number in ["0", "-1.5", "0.00", "1e124", "1e-130", &digits] {
            assert!(is_number(number), "{number}");
        }
        let more = "9".repeat(MAX_DIGITS + 1);
        for other in ["", "NaN", "1e200", "1e-131", "1e-400", "0e", &more] {
            assert!(!is_number(other), "{other}");
        }
    }
}
