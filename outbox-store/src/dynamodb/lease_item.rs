//! A lease as an item of the lease table.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::AttributeValue;
use outbox::timestamp::Timestamp;

use crate::{Lease, LeaseRequests, LeaseState, SequenceNumber, ShardId};

/// Attribute names.
pub(super) mod attribute {
    pub(in crate::dynamodb) const STREAM: &str = "stream";
    pub(in crate::dynamodb) const LEASE: &str = "lease";
    pub(in crate::dynamodb) const OWNER: &str = "owner";
    pub(in crate::dynamodb) const EPOCH: &str = "epoch";
    pub(in crate::dynamodb) const HEARTBEAT: &str = "beat";
    pub(in crate::dynamodb) const LEASE_MS: &str = "lease_ms";
    pub(in crate::dynamodb) const CHECKPOINT: &str = "checkpoint";
    pub(in crate::dynamodb) const PARENT: &str = "parent";
    pub(in crate::dynamodb) const START: &str = "start";
    pub(in crate::dynamodb) const STATE: &str = "state";
    pub(in crate::dynamodb) const LOW_WATERMARK: &str = "passed";
    pub(in crate::dynamodb) const UNLISTED_AT: &str = "unlisted_at";
    pub(in crate::dynamodb) const DEFERRED: &str = "deferred";
    pub(in crate::dynamodb) const REQUESTED_BY: &str = "wanted_by";
    pub(in crate::dynamodb) const SWEEP_REQUESTED: &str = "sweep_requested";
    pub(in crate::dynamodb) const LISTING_REQUESTED: &str = "listing_requested";
    pub(in crate::dynamodb) const STREAM_ARN: &str = "stream_arn";
    pub(in crate::dynamodb) const PREVIOUS_STREAM: &str = "previous_stream";
}

const OPEN: &str = "OPEN";
const ENDED: &str = "ENDED";

/// A conditional update. Each attribute `a` is written `#a` and its value `:a` in expressions.
#[derive(Debug, Default)]
pub(super) struct Update {
    set: Vec<(&'static str, AttributeValue)>,
    remove: Vec<&'static str>,
    condition: Vec<String>,
    names: Vec<&'static str>,
    values: Vec<(String, AttributeValue)>,
}

impl Update {
    pub(super) fn set(mut self, name: &'static str, value: AttributeValue) -> Self {
        self.set.push((name, value));
        self
    }

    pub(super) fn remove(mut self, name: &'static str) -> Self {
        self.remove.push(name);
        self
    }

    /// Sets an attribute to `value`, or removes it.
    pub(super) fn set_or_remove(self, name: &'static str, value: Option<AttributeValue>) -> Self {
        match value {
            Some(value) => self.set(name, value),
            None => self.remove(name),
        }
    }

    /// Requires that the attribute compares with `operator` to `value`.
    pub(super) fn when(
        mut self,
        name: &'static str,
        operator: &str,
        value: AttributeValue,
    ) -> Self {
        self.condition
            .push(format!("#{name} {operator} :when_{name}"));
        self.names.push(name);
        self.values.push((format!(":when_{name}"), value));
        self
    }

    /// Requires that the attribute exists, or that it does not.
    pub(super) fn when_exists(mut self, name: &'static str, exists: bool) -> Self {
        let function = if exists {
            "attribute_exists"
        } else {
            "attribute_not_exists"
        };
        self.condition.push(format!("{function}(#{name})"));
        self.names.push(name);
        self
    }

    /// Requires that the attribute has this text, or does not exist for `None`.
    pub(super) fn when_text(self, name: &'static str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.when(name, "=", text_value(value)),
            None => self.when_exists(name, false),
        }
    }

    /// Adds the expressions to a request.
    pub(super) fn apply(self, mut request: UpdateItemFluentBuilder) -> UpdateItemFluentBuilder {
        let mut expression = String::new();
        if !self.set.is_empty() {
            let set: Vec<_> = self
                .set
                .iter()
                .map(|(name, _)| format!("#{name} = :{name}"))
                .collect();
            expression = format!("SET {}", set.join(", "));
        }
        if !self.remove.is_empty() {
            let remove: Vec<_> = self.remove.iter().map(|name| format!("#{name}")).collect();
            expression = format!("{expression} REMOVE {}", remove.join(", "));
        }
        let written = self.set.iter().map(|(name, _)| *name);
        for name in written.chain(self.remove).chain(self.names) {
            request = request.expression_attribute_names(format!("#{name}"), name);
        }
        for (name, value) in self.set {
            request = request.expression_attribute_values(format!(":{name}"), value);
        }
        for (name, value) in self.values {
            request = request.expression_attribute_values(name, value);
        }
        request
            .update_expression(expression.trim_start())
            .condition_expression(self.condition.join(" AND "))
    }
}

pub(super) fn text_value(text: impl ToString) -> AttributeValue {
    AttributeValue::S(text.to_string())
}

pub(super) fn number_value(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

pub(super) fn state_value(state: LeaseState) -> AttributeValue {
    text_value(match state {
        LeaseState::Open => OPEN,
        LeaseState::Ended => ENDED,
    })
}

/// Returns the value of a lease duration in milliseconds.
pub(super) fn duration_value(duration: Duration) -> AttributeValue {
    number_value(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

pub(super) fn deferred_value(deferred: &BTreeMap<String, u64>) -> AttributeValue {
    let counts = deferred
        .iter()
        .map(|(queue, count)| (queue.clone(), number_value(*count)));
    AttributeValue::M(counts.collect())
}

pub(super) fn text(item: &HashMap<String, AttributeValue>, name: &str) -> Option<String> {
    item.get(name).and_then(|value| value.as_s().ok()).cloned()
}

/// Returns the requests that an item has.
pub(super) fn requests(item: &HashMap<String, AttributeValue>) -> LeaseRequests {
    LeaseRequests {
        requested_by: text(item, attribute::REQUESTED_BY),
        sweep: text(item, attribute::SWEEP_REQUESTED),
        listing: text(item, attribute::LISTING_REQUESTED),
    }
}

/// Returns the lease of an item, or `None` if the item is not one.
pub(super) fn from_item(item: &HashMap<String, AttributeValue>) -> Option<Lease> {
    let text = |name: &str| text(item, name);
    let number = |name: &str| item.get(name)?.as_n().ok()?.parse().ok();
    let time = |name: &str| -> Option<Timestamp> { text(name)?.parse().ok() };
    Some(Lease {
        shard: ShardId(text(attribute::LEASE)?.into()),
        parent: text(attribute::PARENT).map(|id| ShardId(id.into())),
        start: text(attribute::START).map(|number| SequenceNumber(number.into())),
        owner: text(attribute::OWNER),
        epoch: number(attribute::EPOCH)?,
        heartbeat: number(attribute::HEARTBEAT)?,
        lease_duration: number(attribute::LEASE_MS).map(Duration::from_millis),
        checkpoint: text(attribute::CHECKPOINT).map(|number| SequenceNumber(number.into())),
        state: match text(attribute::STATE)?.as_str() {
            OPEN => LeaseState::Open,
            ENDED => LeaseState::Ended,
            _ => return None,
        },
        low_watermark: time(attribute::LOW_WATERMARK),
        unlisted_at: time(attribute::UNLISTED_AT),
        deferred: item
            .get(attribute::DEFERRED)
            .map_or_else(BTreeMap::new, deferred),
        requests: requests(item),
    })
}

/// Returns the counts by queue, without those that are not numbers.
fn deferred(value: &AttributeValue) -> BTreeMap<String, u64> {
    let Ok(counts) = value.as_m() else {
        return BTreeMap::new();
    };
    let parsed = counts.iter().filter_map(|(queue, count)| {
        let count = count.as_n().ok()?.parse().ok()?;
        Some((queue.clone(), count))
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item() -> HashMap<String, AttributeValue> {
        HashMap::from([
            ("lease".to_owned(), text_value("s")),
            ("epoch".to_owned(), number_value(3)),
            ("beat".to_owned(), number_value(9)),
            ("state".to_owned(), text_value("OPEN")),
        ])
    }

    #[test]
    fn an_item_of_an_older_release_has_no_lease_duration() {
        let lease = from_item(&item()).unwrap();
        assert_eq!((lease.epoch, lease.heartbeat), (3, 9));
        assert_eq!(lease.lease_duration, None);
        assert_eq!(lease.deferred, BTreeMap::new());
    }

    #[test]
    fn an_item_without_an_epoch_or_with_an_unknown_state_is_not_a_lease() {
        let mut unknown = item();
        unknown.insert("state".to_owned(), text_value("PAUSED"));
        assert_eq!(from_item(&unknown), None);
        let mut incomplete = item();
        incomplete.remove("epoch");
        assert_eq!(from_item(&incomplete), None);
    }

    #[test]
    fn deferred_counts_read_back_as_they_were_written() {
        let counts = BTreeMap::from([("orders".to_owned(), 7)]);
        assert_eq!(deferred(&deferred_value(&counts)), counts);
        let mut item = item();
        item.insert("deferred".to_owned(), text_value("none"));
        assert_eq!(from_item(&item).unwrap().deferred, BTreeMap::new());
    }
}
