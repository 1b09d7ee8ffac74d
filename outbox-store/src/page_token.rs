//! Pages of a list that is merged from several partitions, and the token of the next page.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use outbox::item::attribute;
use serde::{Deserialize, Serialize};

use crate::item::text;
use crate::{EventKey, Item, StoredEvent, TableError};

/// Token of the next page: for each partition, the last event of the pages before. Opaque to
/// callers; it contains keys of events and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub struct PageToken(BTreeMap<String, Position>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Position {
    #[default]
    Start,
    After {
        occurred_at: Option<String>,
        aggregate_id: String,
        sequence: String,
    },
    End,
}

impl fmt::Display for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(&self.0).map_err(|_| fmt::Error)?)
    }
}

impl From<PageToken> for String {
    fn from(token: PageToken) -> Self {
        token.to_string()
    }
}

impl FromStr for PageToken {
    type Err = TableError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        serde_json::from_str(text)
            .map(Self)
            .map_err(|_| TableError::InvalidPageToken)
    }
}

/// One page of a list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EventPage {
    /// May be fewer than the limit, even none, although more follow.
    pub events: Vec<StoredEvent>,
    /// Token of the next page; `None` at the end of the list.
    pub next: Option<PageToken>,
}

/// Events that were read of one partition.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) before: Position,
    pub(crate) events: Vec<StoredEvent>,
    pub(crate) after: Position,
}

impl PageToken {
    /// Returns the position in the partition called `name`.
    pub(crate) fn of(&self, name: &str) -> Position {
        self.0.get(name).cloned().unwrap_or_default()
    }
}

impl Position {
    /// Returns the position after the item of `key`, a `LastEvaluatedKey`.
    pub(crate) fn after_key(key: &Item) -> Self {
        match EventKey::of(key) {
            Some(EventKey {
                aggregate_id,
                sequence,
            }) => Self::After {
                occurred_at: text(key, attribute::OCCURRED_AT),
                aggregate_id,
                sequence,
            },
            None => Self::End,
        }
    }

    fn after_event(event: &StoredEvent) -> Self {
        Self::After {
            occurred_at: event.occurred_at.clone(),
            aggregate_id: event.aggregate_id.clone(),
            sequence: event.sequence.clone(),
        }
    }
}

/// Merges the parts: returns the first `limit` events of all, and the token of the next page.
pub(crate) fn merge(parts: Vec<Part>, newest_first: bool, limit: usize) -> EventPage {
    // Events beyond the end of a part that has more are left for the next page: the next events of
    // that part may precede them.
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
    let mut events: Vec<(usize, &StoredEvent)> = parts
        .iter()
        .enumerate()
        .flat_map(|(n, part)| part.events.iter().map(move |event| (n, event)))
        .filter(|(_, event)| horizon.is_none_or(|horizon| !is_after(&event.occurred_at, horizon)))
        .collect();
    if parts.len() > 1 {
        // The sort is stable, so that each part keeps its own order.
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
                _ => Position::after_event(&part.events[taken - 1]),
            };
            (part.name.clone(), position)
        })
        .collect();
    let is_over = positions
        .values()
        .all(|position| *position == Position::End);
    EventPage {
        events: events.into_iter().map(|(_, event)| event.clone()).collect(),
        next: (!is_over).then_some(PageToken(positions)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(second: u32) -> StoredEvent {
        StoredEvent {
            aggregate_id: format!("a-{second}"),
            sequence: "1".to_owned(),
            occurred_at: Some(format!("2026-01-01T00:00:{second:02}.000Z")),
            ..StoredEvent::default()
        }
    }

    fn part(name: &str, seconds: &[u32], after: Position) -> Part {
        Part {
            name: name.to_owned(),
            before: Position::Start,
            events: seconds.iter().copied().map(event).collect(),
            after,
        }
    }

    fn seconds(page: &EventPage) -> Vec<String> {
        let events = page.events.iter();
        events.map(|event| event.aggregate_id.clone()).collect()
    }

    #[test]
    fn events_beyond_the_limit_are_on_the_next_page() {
        let parts = vec![
            part("x", &[1, 4], Position::End),
            part("y", &[2, 3], Position::End),
        ];
        let page = merge(parts, false, 3);
        assert_eq!(seconds(&page), ["a-1", "a-2", "a-3"]);
        let next = page.next.unwrap();
        assert_eq!(next.of("x"), Position::after_event(&event(1)));
        assert_eq!(next.of("y"), Position::End);
        assert_eq!(next.to_string().parse::<PageToken>().unwrap(), next);
    }

    #[test]
    fn no_event_precedes_an_unread_event_of_another_partition() {
        // The filter matched no event in `x` up to second 2, and more follow.
        let parts = || {
            vec![
                part("x", &[], Position::after_event(&event(2))),
                part("y", &[1, 3], Position::End),
            ]
        };
        let page = merge(parts(), false, 10);
        assert_eq!(seconds(&page), ["a-1"]);
        assert_eq!(page.next.unwrap().of("x"), Position::after_event(&event(2)));
        let mut newest = parts();
        newest[1].events.reverse();
        assert_eq!(seconds(&merge(newest, true, 10)), ["a-3"]);
    }
}
