//! Events by state, aggregate or type, a page at a time.
//!
//! What is pending or failed lies in the few partitions of the index, each in
//! the order of `occurred_at`; they are read side by side and merged. Events
//! that are settled are in no index: they are found by their aggregate, or by
//! a Scan that is asked for by name.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;

use aws_sdk_dynamodb::types::AttributeValue;
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use shared::outbox::Status;
use shared::outbox::item::{BY_STATE_INDEX, FAILED_BUCKET, attribute, pending_buckets};
use shared::timestamp::Timestamp;

use super::event::EventView;
use super::{OperateError, Operator, failed};
use crate::ports::EventKey;

/// Items a filtered request looks at. DynamoDB ends a page at 1 MB anyway.
const FILTERED_PAGE: usize = 1_000;

/// Requests for one partition in one call: a filter that matches next to
/// nothing must not read a partition of millions in one go.
const MAX_REQUESTS: usize = 10;

/// What an operator may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Pending,
    Failed,
    Published,
    Discarded,
}

impl State {
    fn status(self) -> Status {
        match self {
            Self::Pending => Status::Pending,
            Self::Failed => Status::Failed,
            Self::Published => Status::Published,
            Self::Discarded => Status::Discarded,
        }
    }
}

impl FromStr for State {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "pending" => Ok(Self::Pending),
            "failed" => Ok(Self::Failed),
            "published" => Ok(Self::Published),
            "discarded" => Ok(Self::Discarded),
            _ => Err("must be pending, failed, published or discarded".to_owned()),
        }
    }
}

/// An event type, or the start of one: `order.placed`, `order.*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypePattern {
    text: String,
    is_prefix: bool,
}

impl FromStr for TypePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (start, is_prefix) = match text.strip_suffix('*') {
            Some(start) => (start, true),
            None => (text, false),
        };
        if text.is_empty() || start.contains('*') {
            return Err(
                "must be an event type such as order.placed, or the start of one such as order.*"
                    .to_owned(),
            );
        }
        Ok(Self {
            text: start.to_owned(),
            is_prefix,
        })
    }
}

/// Which events. The default is whatever is pending or failed, the oldest
/// first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub state: Option<State>,
    /// Only this aggregate's events, by sequence.
    pub aggregate_id: Option<String>,
    /// With an aggregate: its events from this one on.
    pub from_sequence: Option<u64>,
    /// Not those that occurred before.
    pub since: Option<Timestamp>,
    pub event_type: Option<TypePattern>,
    /// Text that `failure` contains.
    pub reason: Option<String>,
    pub newest_first: bool,
    /// Settled events without naming an aggregate: reads the whole table, in
    /// no order.
    pub scan: bool,
}

/// Some events.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Listing {
    /// May be fewer than asked for, even none, although more follow.
    pub events: Vec<EventView>,
    /// Where to go on; `None` at the end.
    pub next: Option<Cursor>,
}

/// Where a listing goes on: for each partition, after which event. Opaque to
/// callers; its text is safe to hand to others, as it says nothing but keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub struct Cursor(BTreeMap<String, Position>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Position {
    #[default]
    Start,
    After {
        occurred_at: Option<String>,
        aggregate_id: String,
        sequence: String,
    },
    End,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(&self.0).map_err(|_| fmt::Error)?)
    }
}

impl From<Cursor> for String {
    fn from(cursor: Cursor) -> Self {
        cursor.to_string()
    }
}

impl FromStr for Cursor {
    type Err = OperateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        serde_json::from_str(text)
            .map(Self)
            .map_err(|_| OperateError::Invalid("this is not where a listing goes on".to_owned()))
    }
}

/// Where events are read from.
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

/// What was read of a source, and up to where.
struct Part {
    name: String,
    before: Position,
    events: Vec<EventView>,
    after: Position,
}

impl Filter {
    /// Asks for events that are in no index, and names neither an aggregate
    /// nor a scan.
    pub fn is_unindexed(&self) -> bool {
        matches!(self.state, Some(State::Published | State::Discarded))
            && self.aggregate_id.is_none()
            && !self.scan
    }

    fn sources(&self) -> Result<Vec<Source>, OperateError> {
        let index = |names: Vec<String>| Ok(names.into_iter().map(Source::Index).collect());
        match (&self.aggregate_id, self.state) {
            (Some(id), _) => Ok(vec![Source::Aggregate(id.clone())]),
            (None, _) if self.scan => Ok(vec![Source::Scan]),
            (None, Some(State::Pending)) => index(pending_buckets().collect()),
            (None, Some(State::Failed)) => index(vec![FAILED_BUCKET.to_owned()]),
            (None, None) => {
                index(pending_buckets().chain([FAILED_BUCKET.to_owned()]).collect())
            }
            (None, Some(State::Published | State::Discarded)) => Err(OperateError::Invalid(
                "settled events are in no index: name an aggregate, or ask for a scan of the whole table"
                    .to_owned(),
            )),
        }
    }
}

impl Operator {
    /// Up to `limit` events (at least 1) that match `filter`, from `after` on.
    pub async fn list(
        &self,
        filter: &Filter,
        limit: usize,
        after: Option<&Cursor>,
    ) -> Result<Listing, OperateError> {
        let limit = limit.max(1);
        let parts = filter.sources()?.into_iter().map(|source| {
            let position = after
                .and_then(|cursor| cursor.0.get(&source.name()).cloned())
                .unwrap_or_default();
            self.part(source, filter, limit, position)
        });
        Ok(merge(
            try_join_all(parts).await?,
            filter.newest_first,
            limit,
        ))
    }

    async fn part(
        &self,
        source: Source,
        filter: &Filter,
        limit: usize,
        before: Position,
    ) -> Result<Part, OperateError> {
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
            let page = if request.filters.is_empty() {
                limit - part.events.len()
            } else {
                FILTERED_PAGE
            };
            let (items, last) = self.send(&source, &request, page, filter).await?;
            part.after = last.as_ref().map_or(Position::End, position);
            for item in items {
                part.events
                    .extend(EventView::of(&item, self.jaeger_ui_url.as_deref()));
            }
        }
        Ok(part)
    }

    async fn send(
        &self,
        source: &Source,
        request: &Request,
        page: usize,
        filter: &Filter,
    ) -> Result<(Vec<Item>, Option<Item>), OperateError> {
        let table = &self.outbox_table;
        let page = i32::try_from(page).unwrap_or(i32::MAX);
        let filters = (!request.filters.is_empty()).then(|| request.filters.join(" AND "));
        if *source == Source::Scan {
            let answer = self
                .dynamodb
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
                .map_err(|error| failed(table, &error))?;
            return Ok((answer.items.unwrap_or_default(), answer.last_evaluated_key));
        }
        let answer = self
            .dynamodb
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
            .map_err(|error| failed(table, &error))?;
        Ok((answer.items.unwrap_or_default(), answer.last_evaluated_key))
    }
}

type Item = HashMap<String, AttributeValue>;

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
    fn new(source: &Source, filter: &Filter) -> Self {
        let mut request = Self {
            keys: Vec::new(),
            filters: Vec::new(),
            projection: String::new(),
            names: HashMap::new(),
            values: HashMap::new(),
            start: None,
        };
        // A list shows no payloads: 390 KB each would be for nothing.
        let shown: Vec<_> = attribute::ALL
            .into_iter()
            .filter(|name| *name != attribute::PAYLOAD)
            .map(|name| request.name(name))
            .collect();
        request.projection = shown.join(", ");
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
                    // `*` alone: any type, as long as there is one.
                    (true, true) => {
                        request.values.remove(":type");
                        format!("attribute_exists({name})")
                    }
                    (true, false) => format!("begins_with({name}, {value})"),
                    (false, _) => format!("{name} = {value}"),
                });
        }
        if let Some(reason) = &filter.reason {
            let name = request.name(attribute::FAILURE);
            let value = request.value("reason", reason.clone());
            request.filters.push(format!("contains({name}, {value})"));
        }
        request
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

fn position(key: &Item) -> Position {
    let text = |name: &str| super::event::text(key, name);
    let sequence = key
        .get(attribute::SEQUENCE)
        .and_then(|value| value.as_n().ok().cloned());
    match (text(attribute::AGGREGATE_ID), sequence) {
        (Some(aggregate_id), Some(sequence)) => Position::After {
            occurred_at: text(attribute::OCCURRED_AT),
            aggregate_id,
            sequence,
        },
        _ => Position::End,
    }
}

fn position_of(event: &EventView) -> Position {
    Position::After {
        occurred_at: event.occurred_at.clone(),
        aggregate_id: event.aggregate_id.clone(),
        sequence: event.sequence.clone(),
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
    let mut key = super::change::item_key(&EventKey {
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

/// The first `limit` events of all parts together, and where each part goes on.
fn merge(parts: Vec<Part>, newest_first: bool, limit: usize) -> Listing {
    // Beyond the end of a part that has more, others must not go on: what
    // comes next in it may belong before theirs.
    let is_after =
        |a: &Option<String>, b: &Option<String>| if newest_first { a < b } else { a > b };
    let mut horizon: Option<&Option<String>> = None;
    if parts.len() > 1 {
        for part in &parts {
            if let Position::After { occurred_at, .. } = &part.after
                && horizon.is_none_or(|horizon| is_after(horizon, occurred_at))
            {
                horizon = Some(occurred_at);
            }
        }
    }
    let mut events: Vec<(usize, &EventView)> = parts
        .iter()
        .enumerate()
        .flat_map(|(n, part)| part.events.iter().map(move |event| (n, event)))
        .filter(|(_, event)| horizon.is_none_or(|horizon| !is_after(&event.occurred_at, horizon)))
        .collect();
    if parts.len() > 1 {
        // Stable, so that each part keeps its own order.
        events.sort_by(|(_, a), (_, b)| {
            let order = a.occurred_at.cmp(&b.occurred_at);
            if newest_first { order.reverse() } else { order }
        });
    }
    events.truncate(limit);
    let positions: BTreeMap<_, _> = parts
        .iter()
        .enumerate()
        .map(|(n, part)| {
            let taken = events.iter().filter(|(of, _)| *of == n).count();
            let position = match taken {
                _ if taken == part.events.len() => part.after.clone(),
                0 => part.before.clone(),
                _ => position_of(&part.events[taken - 1]),
            };
            (part.name.clone(), position)
        })
        .collect();
    let is_over = positions
        .values()
        .all(|position| *position == Position::End);
    Listing {
        events: events.into_iter().map(|(_, event)| event.clone()).collect(),
        next: (!is_over).then_some(Cursor(positions)),
    }
}
