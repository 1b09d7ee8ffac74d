//! One event or aggregate, by the name a person has at hand: an event id, an
//! aggregate's id, or `<aggregate id>:<sequence>`.

use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::types::AttributeValue;
use futures::future::try_join_all;
use outbox::item::{BY_STATE_INDEX, FAILED_BUCKET, attribute, pending_buckets};
use outbox_store::EventKey;
use serde::Serialize;

use super::aggregate::AggregateState;
use super::change::item_key;
use super::event::{EventDetail, EventView};
use super::filter::Filter;
use super::list::Listing;
use super::{OperateError, Operator, failed};

/// Events of an aggregate that are shown at once.
pub const MAX_HISTORY: usize = 200;

/// Bytes of a partition key in DynamoDB.
const MAX_KEY: usize = 2_048;

/// Characters and digits of a number that may be a sequence: DynamoDB keeps 38
/// digits.
const MAX_NUMBER: usize = 40;
const MAX_DIGITS: usize = 38;

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Shown {
    Event(Box<EventDetail>),
    Aggregate(AggregateView),
}

/// An aggregate with all its events.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AggregateView {
    pub aggregate_id: String,
    /// By sequence, at most [`MAX_HISTORY`].
    pub events: Vec<EventView>,
    /// There are more events than are shown.
    pub truncated: bool,
    pub state: Option<AggregateState>,
}

impl Operator {
    /// The event or aggregate called `name`.
    pub async fn show(&self, name: &str) -> Result<Shown, OperateError> {
        if let Some(aggregate) = self.aggregate(name).await? {
            return Ok(Shown::Aggregate(aggregate));
        }
        let key = self.find(name).await?;
        match self.event(&key).await? {
            Some(event) => Ok(Shown::Event(Box::new(event))),
            None => Err(not_found(name)),
        }
    }

    /// The key of the event called `name`: its id, or the default form
    /// `<aggregate id>:<sequence>` whatever its id. Ids that differ from the
    /// default are looked for among the pending and failed events only: no
    /// index has the others.
    pub async fn find(&self, name: &str) -> Result<EventKey, OperateError> {
        if name.is_empty() {
            return Err(OperateError::Invalid("an event id is not empty".to_owned()));
        }
        if let Some(key) = default_key(name)
            && self.exists(&key).await?
        {
            return Ok(key);
        }
        let partitions = pending_buckets().chain([FAILED_BUCKET.to_owned()]);
        let found = try_join_all(partitions.map(|partition| self.by_event_id(partition, name)));
        let mut found = found.await?.into_iter().flatten();
        found.next().ok_or_else(|| not_found(name))
    }

    /// One event, whole; `None` when there is none.
    pub async fn event(&self, key: &EventKey) -> Result<Option<EventDetail>, OperateError> {
        let item = self
            .dynamodb
            .get_item()
            .table_name(&self.outbox_table)
            .set_key(Some(item_key(key)))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| failed(&self.outbox_table, &error))?
            .item;
        let Some(detail) =
            item.and_then(|item| EventDetail::of(item, self.jaeger_ui_url.as_deref()))
        else {
            return Ok(None);
        };
        let aggregate = self
            .aggregate_state(
                detail.event.aggregate_type.as_deref(),
                &detail.event.aggregate_id,
            )
            .await;
        Ok(Some(detail.with_aggregate(aggregate)))
    }

    /// An aggregate's events; `None` when it has none.
    pub async fn aggregate(
        &self,
        aggregate_id: &str,
    ) -> Result<Option<AggregateView>, OperateError> {
        if aggregate_id.is_empty() || aggregate_id.len() > MAX_KEY {
            return Ok(None);
        }
        let filter = Filter {
            aggregate_id: Some(aggregate_id.to_owned()),
            ..Filter::default()
        };
        let Listing { events, next } = self.list(&filter, MAX_HISTORY, None).await?;
        let Some(first) = events.first() else {
            return Ok(None);
        };
        let state = self
            .aggregate_state(first.aggregate_type.as_deref(), aggregate_id)
            .await;
        Ok(Some(AggregateView {
            aggregate_id: aggregate_id.to_owned(),
            events,
            truncated: next.is_some(),
            state,
        }))
    }

    async fn exists(&self, key: &EventKey) -> Result<bool, OperateError> {
        let answer = self
            .dynamodb
            .get_item()
            .table_name(&self.outbox_table)
            .set_key(Some(item_key(key)))
            .projection_expression("#id")
            .expression_attribute_names("#id", attribute::AGGREGATE_ID)
            .consistent_read(true)
            .send()
            .await;
        match answer {
            Ok(answer) => Ok(answer.item.is_some()),
            // No item can have such a key.
            Err(error) if error.code() == Some("ValidationException") => Ok(false),
            Err(error) => Err(failed(&self.outbox_table, &error)),
        }
    }

    async fn by_event_id(
        &self,
        partition: String,
        event_id: &str,
    ) -> Result<Option<EventKey>, OperateError> {
        let mut pages = self
            .dynamodb
            .query()
            .table_name(&self.outbox_table)
            .index_name(BY_STATE_INDEX)
            .key_condition_expression("#bucket = :bucket")
            .filter_expression("#event_id = :event_id")
            .projection_expression("#id, #sequence")
            .expression_attribute_names("#bucket", attribute::STATE_BUCKET)
            .expression_attribute_names("#event_id", attribute::EVENT_ID)
            .expression_attribute_names("#id", attribute::AGGREGATE_ID)
            .expression_attribute_names("#sequence", attribute::SEQUENCE)
            .expression_attribute_values(":bucket", AttributeValue::S(partition))
            .expression_attribute_values(":event_id", AttributeValue::S(event_id.to_owned()))
            .into_paginator()
            .items()
            .send();
        while let Some(item) = pages.next().await {
            let item = item.map_err(|error| failed(&self.outbox_table, &error))?;
            if let Some(event) = EventView::of(&item, None) {
                return Ok(Some(event.key()));
            }
        }
        Ok(None)
    }
}

/// The key that a default event id names.
fn default_key(name: &str) -> Option<EventKey> {
    let (aggregate_id, sequence) = name.rsplit_once(':')?;
    (is_number(sequence) && !aggregate_id.is_empty()).then(|| EventKey {
        aggregate_id: aggregate_id.to_owned(),
        sequence: sequence.to_owned(),
    })
}

/// Whether `text` is a number as DynamoDB takes it for a key. Not only a whole
/// one: an event may be malformed by its sequence.
pub fn is_number(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_digit() || matches!(c, b'-' | b'+' | b'.' | b'e' | b'E');
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    let mut digits = mantissa.bytes().filter(u8::is_ascii_digit);
    text.len() <= MAX_NUMBER
        && text.bytes().all(plain)
        && digits.clone().count() <= MAX_DIGITS
        && text.parse::<f64>().is_ok_and(|number| {
            // The magnitudes that DynamoDB keeps.
            (1e-130..1e125).contains(&number.abs()) || digits.all(|digit| digit == b'0')
        })
}

fn not_found(name: &str) -> OperateError {
    OperateError::NotFound(format!(
        "there is no event or aggregate `{name}`; a published event with an id of its own is found by its aggregate's id"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_event_id_names_its_key() {
        let key = default_key("a:b:7").unwrap();
        assert_eq!(
            (key.aggregate_id.as_str(), key.sequence.as_str()),
            ("a:b", "7")
        );
        assert_eq!(default_key("a:1.5").unwrap().sequence, "1.5");
        for other in ["a", "a:", ":7", "a:7x", "a:inf", "a:1E200"] {
            assert_eq!(default_key(other), None, "{other}");
        }
    }

    #[test]
    fn a_number_is_one_that_dynamodb_keeps() {
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
