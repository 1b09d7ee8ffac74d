//! Lists events by state, aggregate or type, a page at a time.
//!
//! Pending and failed events are in the few partitions of the index, each in the order of
//! `occurred_at`; the partitions are read concurrently and merged. The index has only what selects
//! and orders events; the rest of an event is read from the table. Published and discarded events
//! are not in the index: they are found by their aggregate, or by a Scan that the filter requests.

use std::collections::HashMap;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::AttributeValue;
use futures::future::try_join_all;
use outbox::Buckets;
use outbox::item::{BY_STATE_INDEX, FAILED_BUCKET, attribute};
use shared::aws::error::{ErrorClass, classify};

use super::DynamoDbOutboxTable;
use super::attribute_value::item_key;
use crate::page_token::{Part, Position, merge};
use crate::{
    EventFilter, EventKey, EventPage, EventState, Item, PageToken, StoredEvent, TableError,
};

/// Items that a request with a filter reads. DynamoDB ends a page at 1 MB in any case.
const FILTERED_PAGE: usize = 1_000;

/// Requests for one partition in one call. A filter with few matches must not read a partition of
/// millions of events in one call.
const MAX_REQUESTS: usize = 10;

/// Keys per BatchGetItem. Source: DynamoDB's API reference.
const MAX_BATCH: usize = 100;

/// Attributes of an index entry that the list reads: all of them are in the index.
const INDEX_ENTRY: [&str; 6] = [
    attribute::AGGREGATE_ID,
    attribute::SEQUENCE,
    attribute::STATE_BUCKET,
    attribute::OCCURRED_AT,
    attribute::EVENT_ID,
    attribute::EVENT_TYPE,
];

/// Returns the attributes that a list reads of an event: all except payloads, which may be 390 KB
/// each.
pub(super) fn shown() -> impl Iterator<Item = &'static str> {
    let is_shown = |name: &&str| *name != attribute::PAYLOAD;
    attribute::ALL.into_iter().filter(is_shown)
}

/// Source of the events of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    /// A partition of the index.
    Index(String),
    Aggregate(String),
    Scan,
}

impl Source {
    fn name(&self) -> String {
        match self {
            Self::Index(partition) => partition.clone(),
            Self::Aggregate(_) | Self::Scan => "table".to_owned(),
        }
    }
}

fn sources(filter: &EventFilter, buckets: Buckets) -> Result<Vec<Source>, TableError> {
    if filter.is_unindexed() {
        return Err(TableError::NotIndexed);
    }
    if let Some(id) = &filter.aggregate_id {
        return Ok(vec![Source::Aggregate(id.clone())]);
    }
    if filter.scan {
        return Ok(vec![Source::Scan]);
    }
    let pending = buckets
        .partitions()
        .filter(|_| filter.state != Some(EventState::Failed));
    let failed = (filter.state != Some(EventState::Pending)).then(|| FAILED_BUCKET.to_owned());
    Ok(pending.chain(failed).map(Source::Index).collect())
}

impl DynamoDbOutboxTable {
    /// Returns up to `limit` events (at least 1) that match `filter`, without payloads, after the
    /// page of which `after` is the token.
    pub async fn list(
        &self,
        filter: &EventFilter,
        limit: usize,
        after: Option<&PageToken>,
    ) -> Result<EventPage, TableError> {
        let limit = limit.max(1);
        let parts = sources(filter, self.buckets)?.into_iter().map(|source| {
            let position = after.map_or_else(Position::default, |token| token.of(&source.name()));
            self.part(source, filter, limit, position)
        });
        let mut page = merge(try_join_all(parts).await?, filter.newest_first, limit);
        // With a reason, the parts have read the events themselves.
        if filter.is_indexed() && filter.reason.is_none() {
            page.events = self.read_base(page.events).await?;
        }
        Ok(page)
    }

    /// Returns the events of index entries as the table has them. Those that are no longer in the
    /// index according to the table are left out: the index lags behind.
    async fn read_base(&self, entries: Vec<StoredEvent>) -> Result<Vec<StoredEvent>, TableError> {
        let attributes: Vec<_> = shown().collect();
        let keys: Vec<_> = entries.iter().map(StoredEvent::key).collect();
        // One after the other, the batches of a full page would take as many round trips.
        let batches = keys
            .chunks(MAX_BATCH)
            .map(|keys| self.batch_get(keys, Some(&attributes)));
        let batches = try_join_all(batches).await?;
        let events = keys
            .chunks(MAX_BATCH)
            .zip(&batches)
            .flat_map(|(keys, items)| keys.iter().filter_map(|key| items.get(key)))
            .filter(|item| item.contains_key(attribute::STATE_BUCKET))
            .filter_map(StoredEvent::of)
            .collect();
        Ok(events)
    }

    async fn part(
        &self,
        source: Source,
        filter: &EventFilter,
        limit: usize,
        before: Position,
    ) -> Result<Part, TableError> {
        let mut request = Request::new(&source, filter);
        let mut part = Part {
            name: source.name(),
            after: before.clone(),
            before,
            events: Vec::new(),
        };
        for _ in 0..MAX_REQUESTS {
            if part.after == Position::End || part.events.len() >= limit {
                break;
            }
            request.start = start_key(&source, &part.after);
            let page = if request.filters.is_empty() && filter.reason.is_none() {
                limit - part.events.len()
            } else {
                FILTERED_PAGE
            };
            let (items, last) = self.send(&source, &request, page, filter).await?;
            part.after = last.as_ref().map_or(Position::End, Position::after_key);
            let mut events: Vec<_> = items.iter().filter_map(StoredEvent::of).collect();
            if matches!(source, Source::Index(_))
                && let Some(reason) = &filter.reason
            {
                events = self.read_base(events).await?;
                events.retain(|event| {
                    let failure = event.failure.as_ref();
                    failure.is_some_and(|failure| failure.contains(reason))
                });
            }
            part.events.extend(events);
        }
        Ok(part)
    }

    async fn send(
        &self,
        source: &Source,
        request: &Request,
        page: usize,
        filter: &EventFilter,
    ) -> Result<(Vec<Item>, Option<Item>), TableError> {
        let table = &self.table;
        let page = i32::try_from(page).unwrap_or(i32::MAX);
        let filters = (!request.filters.is_empty()).then(|| request.filters.join(" AND "));
        if *source == Source::Scan {
            let response = self
                .client
                .scan()
                .table_name(table)
                .limit(page)
                .projection_expression(&request.projection)
                .set_filter_expression(filters)
                .set_expression_attribute_names(Some(request.names.clone()))
                .set_expression_attribute_values(
                    (!request.values.is_empty()).then(|| request.values.clone()),
                )
                .set_exclusive_start_key(request.start.clone())
                .send()
                .await
                .map_err(|error| request.failed(table, &error))?;
            return Ok((
                response.items.unwrap_or_default(),
                response.last_evaluated_key,
            ));
        }
        let response = self
            .client
            .query()
            .table_name(table)
            .set_index_name(matches!(source, Source::Index(_)).then(|| BY_STATE_INDEX.to_owned()))
            .limit(page)
            .scan_index_forward(!filter.newest_first)
            .key_condition_expression(request.keys.join(" AND "))
            .projection_expression(&request.projection)
            .set_filter_expression(filters)
            .set_expression_attribute_names(Some(request.names.clone()))
            .set_expression_attribute_values(Some(request.values.clone()))
            .set_exclusive_start_key(request.start.clone())
            .send()
            .await
            .map_err(|error| match request.failed(table, &error) {
                TableError::Rejected { .. } if matches!(source, Source::Index(_)) => {
                    TableError::of_index(table, &error)
                }
                failed => failed,
            })?;
        Ok((
            response.items.unwrap_or_default(),
            response.last_evaluated_key,
        ))
    }
}

/// A Query or Scan, in DynamoDB's terms.
struct Request {
    keys: Vec<String>,
    filters: Vec<String>,
    projection: String,
    names: HashMap<String, String>,
    values: HashMap<String, AttributeValue>,
    start: Option<Item>,
}

impl Request {
    fn new(source: &Source, filter: &EventFilter) -> Self {
        let mut request = Self {
            keys: Vec::new(),
            filters: Vec::new(),
            projection: String::new(),
            names: HashMap::new(),
            values: HashMap::new(),
            start: None,
        };
        let read: Vec<_> = match source {
            Source::Index(_) => INDEX_ENTRY.map(|name| request.name(name)).into(),
            Source::Aggregate(_) | Source::Scan => shown().map(|name| request.name(name)).collect(),
        };
        request.projection = read.join(", ");
        match source {
            Source::Index(partition) => {
                let key = request.equals(attribute::STATE_BUCKET, partition.as_str());
                request.keys.push(key);
            }
            Source::Aggregate(id) => {
                let key = request.equals(attribute::AGGREGATE_ID, id.as_str());
                request.keys.push(key);
                if let Some(from) = filter.from_sequence {
                    let name = request.name(attribute::SEQUENCE);
                    request.keys.push(format!("{name} >= :from"));
                    let from = AttributeValue::N(from.to_string());
                    request.values.insert(":from".to_owned(), from);
                }
            }
            Source::Scan => {}
        }
        if let Some(since) = filter.since {
            let name = request.name(attribute::OCCURRED_AT);
            let value = request.value("since", since.to_string());
            let condition = format!("{name} >= {value}");
            match source {
                Source::Index(_) => request.keys.push(condition),
                _ => request.filters.push(condition),
            }
        }
        if let Some(state) = filter.state
            && !matches!(source, Source::Index(_))
        {
            let condition = request.equals(attribute::STATUS, state.status().as_str());
            request.filters.push(condition);
        }
        if let Some(pattern) = &filter.event_type {
            let name = request.name(attribute::EVENT_TYPE);
            let value = request.value("type", pattern.text.clone());
            request
                .filters
                .push(match (pattern.is_prefix, pattern.text.is_empty()) {
                    // `*` alone: any type, but the attribute must exist.
                    (true, true) => {
                        request.values.remove(":type");
                        format!("attribute_exists({name})")
                    }
                    (true, false) => format!("begins_with({name}, {value})"),
                    (false, _) => format!("{name} = {value}"),
                });
        }
        if let Some(reason) = &filter.reason
            && !matches!(source, Source::Index(_))
        {
            let name = request.name(attribute::FAILURE);
            let value = request.value("reason", reason.clone());
            request.filters.push(format!("contains({name}, {value})"));
        }
        request
    }

    /// Classifies an error of the SDK. The start key is the only part of a request that a caller
    /// can get wrong.
    fn failed<E>(&self, table: &str, error: &SdkError<E>) -> TableError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        if self.start.is_some() && classify(error) == ErrorClass::Rejected {
            return TableError::InvalidPageToken;
        }
        TableError::of(table, error)
    }

    fn name(&mut self, name: &str) -> String {
        let placeholder = format!("#{name}");
        self.names.insert(placeholder.clone(), name.to_owned());
        placeholder
    }

    fn value(&mut self, name: &str, value: impl Into<String>) -> String {
        let placeholder = format!(":{name}");
        self.values
            .insert(placeholder.clone(), AttributeValue::S(value.into()));
        placeholder
    }

    fn equals(&mut self, name: &str, value: &str) -> String {
        format!("{} = {}", self.name(name), self.value(name, value))
    }
}

fn start_key(source: &Source, position: &Position) -> Option<Item> {
    let Position::After {
        occurred_at,
        aggregate_id,
        sequence,
    } = position
    else {
        return None;
    };
    let mut key = item_key(&EventKey {
        aggregate_id: aggregate_id.clone(),
        sequence: sequence.clone(),
    });
    if let Source::Index(partition) = source {
        let index = [
            (attribute::STATE_BUCKET, Some(partition.clone())),
            (attribute::OCCURRED_AT, occurred_at.clone()),
        ];
        for (name, value) in index {
            if let Some(value) = value {
                key.insert(name.to_owned(), AttributeValue::S(value));
            }
        }
    }
    Some(key)
}
