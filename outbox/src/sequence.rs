//! The number of an aggregate's last event, kept in the aggregate's own item.
//!
//! A writer reads the item, numbers its event with the next number, and stores that number in the
//! item by the transaction that stores the event. The transaction checks that the number is still
//! the one that was read: of two concurrent writers one is cancelled with `ConditionalCheckFailed`,
//! reads the item again and retries.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_dynamodb::types::builders::{PutBuilder, UpdateBuilder};

/// Name of the attribute that has the number of the aggregate's last event.
pub const LAST_EVENT: &str = "last_event";

// Placeholders in the caller's expressions.
const NAME: &str = "#outbox_last_event";
const NEXT: &str = ":outbox_next_event";
const PREVIOUS: &str = ":outbox_last_event";

/// Number of the next event of an aggregate.
///
/// ```no_run
/// # use std::collections::HashMap;
/// # use aws_sdk_dynamodb::types::{AttributeValue, TransactWriteItem, Update};
/// # async fn example(
/// #     dynamodb: aws_sdk_dynamodb::Client,
/// #     account: HashMap<String, AttributeValue>,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// use outbox::{Aggregate, NewEvent, Outbox, Sequence};
///
/// // `account` is the item, read with `consistent_read`.
/// let sequence = Sequence::after(&account)?;
/// let close = Update::builder()
///     .table_name("accounts")
///     .key("account_id", account["account_id"].clone())
///     .update_expression("SET closed = :true")
///     .expression_attribute_values(":true", AttributeValue::Bool(true));
/// let close = sequence.update(close).build()?;
/// let aggregate = Aggregate { kind: "account", id: "a-1" };
/// let event = NewEvent::new(aggregate, sequence.get(), "account.closed", &())?;
/// dynamodb
///     .transact_write_items()
///     .transact_items(TransactWriteItem::builder().update(close).build())
///     .transact_items(Outbox::new("outbox").stage(event)?)
///     .send()
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sequence(u64);

/// The attribute [`LAST_EVENT`] of an item is not the number of an event that has a successor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{LAST_EVENT}` is {found}; it must be a whole number from 0 to 18446744073709551614")]
pub struct InvalidLastEvent {
    /// The value, or its type.
    pub found: String,
}

impl Sequence {
    /// The number of the first event of an aggregate.
    pub const FIRST: Self = Self(1);

    /// Returns the number of the next event of the aggregate with this item. An item without
    /// [`LAST_EVENT`] has no event yet.
    ///
    /// # Errors
    /// If the attribute is not a number, or has no successor.
    pub fn after(item: &HashMap<String, AttributeValue>) -> Result<Self, InvalidLastEvent> {
        let invalid = |found: &str| InvalidLastEvent {
            found: found.chars().take(64).collect(),
        };
        match item.get(LAST_EVENT) {
            None => Ok(Self::FIRST),
            Some(AttributeValue::N(number)) => {
                let last: Option<u64> = number.parse().ok();
                let next = last.and_then(|last| last.checked_add(1));
                next.map(Self).ok_or_else(|| invalid(number))
            }
            Some(_) => Err(invalid("not a number")),
        }
    }

    /// Returns the number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Adds the number to a `Put` of the aggregate's item, and the condition that no other event
    /// was stored since the item was read.
    #[must_use]
    pub fn put(self, put: PutBuilder) -> PutBuilder {
        let condition = self.condition(put.get_condition_expression().as_deref());
        let put = put
            .item(LAST_EVENT, number(self.0))
            .condition_expression(condition)
            .expression_attribute_names(NAME, LAST_EVENT);
        match self.previous() {
            Some(previous) => put.expression_attribute_values(PREVIOUS, previous),
            None => put,
        }
    }

    /// Adds the number to an `Update` of the aggregate's item, and the condition that no other
    /// event was stored since the item was read. Both are added to the builder's expressions,
    /// so set those first.
    #[must_use]
    pub fn update(self, update: UpdateBuilder) -> UpdateBuilder {
        let condition = self.condition(update.get_condition_expression().as_deref());
        let assignment = format!("{NAME} = {NEXT}");
        let expression = update.get_update_expression().as_deref();
        let expression = with_assignment(expression, &assignment);
        let update = update
            .update_expression(expression)
            .condition_expression(condition)
            .expression_attribute_names(NAME, LAST_EVENT)
            .expression_attribute_values(NEXT, number(self.0));
        match self.previous() {
            Some(previous) => update.expression_attribute_values(PREVIOUS, previous),
            None => update,
        }
    }

    /// Returns the number of the previous event. The first event has none, and DynamoDB rejects
    /// values that no expression uses.
    fn previous(self) -> Option<AttributeValue> {
        (self.0 > 1).then(|| number(self.0 - 1))
    }

    fn condition(self, caller: Option<&str>) -> String {
        let unchanged = match self.0 {
            // 0 is a number that no event has.
            ..=1 => format!("attribute_not_exists({NAME})"),
            _ => format!("{NAME} = {PREVIOUS}"),
        };
        match caller {
            Some(condition) => format!("({condition}) AND {unchanged}"),
            None => unchanged,
        }
    }
}

fn number(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

/// Adds an assignment to the `SET` clause of an update expression. `SET` is a reserved word, so the
/// bare word is always the keyword.
fn with_assignment(expression: Option<&str>, assignment: &str) -> String {
    let Some(expression) = expression else {
        return format!("SET {assignment}");
    };
    let mut end = 0;
    for word in expression.split_inclusive(char::is_whitespace) {
        end += word.len();
        if word.trim_end().eq_ignore_ascii_case("SET") {
            let (before, after) = expression.split_at(end);
            return format!("{before}{assignment}, {after}");
        }
    }
    format!("{expression} SET {assignment}")
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::{Put, Update};

    use super::*;

    fn item(last: AttributeValue) -> HashMap<String, AttributeValue> {
        HashMap::from([(LAST_EVENT.to_owned(), last)])
    }

    fn after(last: u64) -> Sequence {
        Sequence::after(&item(number(last))).unwrap()
    }

    #[test]
    fn next_number_follows_the_last_event() {
        assert_eq!(Sequence::after(&HashMap::new()), Ok(Sequence::FIRST));
        assert_eq!(after(0).get(), 1);
        assert_eq!(after(41).get(), 42);
        assert_eq!(after(u64::MAX - 1).get(), u64::MAX);
        for wrong in ["18446744073709551615", "-1", "1.5", "1e3", ""] {
            let last = item(AttributeValue::N(wrong.to_owned()));
            assert!(Sequence::after(&last).is_err(), "{wrong}");
        }
        let error = Sequence::after(&item(AttributeValue::S("1".to_owned()))).unwrap_err();
        assert!(error.to_string().contains("not a number"), "{error}");
    }

    #[test]
    fn update_sets_and_checks_the_number() {
        let update = Update::builder()
            .table_name("accounts")
            .update_expression("REMOVE note set balance = :b")
            .condition_expression("balance > :b OR owner = :o");
        let update = after(4).update(update);
        assert_eq!(
            update.get_update_expression().as_deref(),
            Some("REMOVE note set #outbox_last_event = :outbox_next_event, balance = :b")
        );
        assert_eq!(
            update.get_condition_expression().as_deref(),
            Some("(balance > :b OR owner = :o) AND #outbox_last_event = :outbox_last_event")
        );
        let values = update.get_expression_attribute_values().clone().unwrap();
        assert_eq!(values[NEXT], number(5));
        assert_eq!(values[PREVIOUS], number(4));
    }

    #[test]
    fn update_without_a_set_clause_gets_one() {
        assert_eq!(with_assignment(None, "a = :a"), "SET a = :a");
        assert_eq!(
            with_assignment(Some("REMOVE offset, #set"), "a = :a"),
            "REMOVE offset, #set SET a = :a"
        );
    }

    #[test]
    fn first_event_requires_that_there_is_none() {
        let put = Sequence::FIRST.put(Put::builder().table_name("accounts"));
        assert_eq!(put.get_item().as_ref().unwrap()[LAST_EVENT], number(1));
        assert_eq!(
            put.get_condition_expression().as_deref(),
            Some("attribute_not_exists(#outbox_last_event)")
        );
        assert_eq!(put.get_expression_attribute_values(), &None);
    }
}
