//! Trimming of stream records. The embedded stream never trims its records, so the proxy removes
//! them: records before the horizon of a shard are never read again, as after 24 hours in AWS.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use test_support::fault_proxy::{AwsRequest, AwsResponse, ServiceError};

use super::service_errors;

/// ARN of a stream and id of a shard.
type Shard = (String, String);

/// Aggregate and sequence of an event.
pub(super) type EventKey = (String, u64);

/// Events of one shard, in the order of their records.
#[derive(Debug, PartialEq)]
pub(super) struct Page {
    pub(super) shard: String,
    pub(super) events: Vec<EventKey>,
    /// `true` for the last page of a closed shard.
    pub(super) is_last: bool,
}

#[derive(Debug, Default)]
pub(super) struct Trims {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Sequence number of the last trimmed record.
    horizons: HashMap<Shard, String>,
    /// Readers by their iterators, because an iterator does not identify its shard. An iterator is
    /// forgotten when its successor is used: until then a process that did not receive the page
    /// may use it again. Each reader that ends leaves two entries.
    iterators: HashMap<String, Reader>,
}

#[derive(Clone, Debug)]
struct Reader {
    shard: Shard,
    /// `true` if it reads the shard from the oldest record and has not received any.
    is_first: bool,
    /// The iterator before this one.
    previous: Option<String>,
}

/// Records that a reader does not receive, because they are trimmed.
#[derive(Debug, PartialEq)]
pub(super) struct Trimmed {
    pub(super) page: Page,
    pub(super) is_first: bool,
}

impl Trims {
    /// Rewrites a GetShardIterator so that the oldest record is the one after the horizon, or
    /// returns the error if its position is trimmed.
    pub(super) fn locate(&self, request: AwsRequest) -> Result<AwsRequest, Box<ServiceError>> {
        let mut body = request.json();
        let Some(horizon) = self.state().horizons.get(&shard(&body)).cloned() else {
            return Ok(request);
        };
        let number = body["SequenceNumber"].as_str();
        match body["ShardIteratorType"].as_str() {
            Some("TRIM_HORIZON") => {
                body["ShardIteratorType"] = json!("AFTER_SEQUENCE_NUMBER");
                body["SequenceNumber"] = json!(horizon);
                Ok(request.with_body(&body))
            }
            Some("AFTER_SEQUENCE_NUMBER")
                if number.is_some_and(|number| compare(number, &horizon).is_lt()) =>
            {
                Err(Box::new(service_errors::trimmed()))
            }
            Some("AT_SEQUENCE_NUMBER")
                if number.is_some_and(|number| compare(number, &horizon).is_le()) =>
            {
                Err(Box::new(service_errors::trimmed()))
            }
            _ => Ok(request),
        }
    }

    /// Remembers the shard of the new iterator. `is_oldest`: the process asked for the oldest
    /// record.
    pub(super) fn located(&self, request: &AwsRequest, response: &AwsResponse, is_oldest: bool) {
        if let Some(iterator) = response
            .json()
            .and_then(|body| text(&body["ShardIterator"]))
        {
            let reader = Reader {
                shard: shard(&request.json()),
                is_first: is_oldest,
                previous: None,
            };
            self.state().iterators.insert(iterator, reader);
        }
    }

    /// Tracks a reader from page to page and returns the page that it reads, unless the response is
    /// an error.
    pub(super) fn read(&self, request: &AwsRequest, response: &AwsResponse) -> Option<Page> {
        let used = text(&request.json()["ShardIterator"])?;
        let body = response.json()?;
        let mut state = self.state();
        let mut reader = state.iterators.get(&used)?.clone();
        if let Some(previous) = reader.previous.replace(used) {
            state.iterators.remove(&previous);
        }
        let records = records(&body);
        let next = text(&body["NextShardIterator"]);
        let page = Page {
            shard: reader.shard.1.clone(),
            events: events(records),
            is_last: next.is_none(),
        };
        if let Some(next) = next {
            reader.is_first &= records.is_empty();
            state.iterators.insert(next, reader);
        }
        Some(page)
    }

    /// Trims the first records of a page before any relay has read them, and returns their events.
    /// Returns `None` if the page is empty.
    pub(super) fn trim(
        &self,
        request: &AwsRequest,
        response: &AwsResponse,
        random: &mut fastrand::Rng,
    ) -> Option<Trimmed> {
        let body = response.json()?;
        let records = records(&body);
        if records.is_empty() {
            return None;
        }
        let last = random.usize(..records.len());
        let number = text(&records[last]["dynamodb"]["SequenceNumber"])?;
        let mut state = self.state();
        let reader = state
            .iterators
            .get(request.json()["ShardIterator"].as_str()?)?;
        let Reader {
            shard, is_first, ..
        } = reader.clone();
        let page = Page {
            shard: shard.1.clone(),
            events: events(&records[..=last]),
            is_last: false,
        };
        match state.horizons.get(&shard) {
            // A reader behind the horizon cannot lose further records.
            Some(horizon) if compare(&number, horizon).is_le() => return None,
            _ => state.horizons.insert(shard, number),
        };
        Some(Trimmed { page, is_first })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns `true` for a GetShardIterator of the oldest record.
pub(super) fn is_of_oldest_record(request: &AwsRequest) -> bool {
    request.json()["ShardIteratorType"] == "TRIM_HORIZON"
}

/// Returns the shard that a GetShardIterator names.
pub(super) fn shard_id(request: &AwsRequest) -> String {
    shard(&request.json()).1
}

fn shard(body: &Value) -> Shard {
    let of = |name: &str| text(&body[name]).unwrap_or_default();
    (of("StreamArn"), of("ShardId"))
}

fn records(page: &Value) -> &[Value] {
    page["Records"].as_array().map_or(&[], Vec::as_slice)
}

/// Returns the events of `records`; only an inserted item is an event.
fn events(records: &[Value]) -> Vec<EventKey> {
    let inserted = records.iter().filter(|one| one["eventName"] == "INSERT");
    inserted
        .filter_map(|record| {
            let keys = &record["dynamodb"]["Keys"];
            let sequence = keys["sequence"]["N"].as_str()?.parse().ok()?;
            Some((text(&keys["aggregate_id"]["S"])?, sequence))
        })
        .collect()
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// Compares sequence numbers: decimal, of up to 40 digits, with or without leading zeros.
fn compare(one: &str, other: &str) -> Ordering {
    let [one, other] = [one, other].map(|number| number.trim_start_matches('0'));
    one.len().cmp(&other.len()).then_with(|| one.cmp(other))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;
    use crate::history::CloudService;

    fn request(body: &Value) -> AwsRequest {
        AwsRequest::of(CloudService::Streams, "", body)
    }

    fn response(body: &Value) -> AwsResponse {
        AwsResponse {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: body.to_string().into(),
        }
    }

    fn at(kind: &str, number: Option<&str>) -> AwsRequest {
        request(&json!({
            "StreamArn": "arn", "ShardId": "s", "ShardIteratorType": kind, "SequenceNumber": number,
        }))
    }

    fn record(name: &str, number: &str) -> Value {
        let keys = json!({"aggregate_id": {"S": format!("a-{number}")}, "sequence": {"N": "1"}});
        json!({"eventName": name, "dynamodb": {"SequenceNumber": number, "Keys": keys}})
    }

    /// Returns a shard that a reader opened with the iterator `i`.
    fn opened(iterator_type: &str) -> Trims {
        let trims = Trims::default();
        trims.located(
            &at(iterator_type, None),
            &response(&json!({"ShardIterator": "i"})),
            iterator_type == "TRIM_HORIZON",
        );
        trims
    }

    /// Returns a shard whose records 7 to 9 or fewer were trimmed before a reader read them, and
    /// its horizon.
    fn trimmed() -> (Trims, String) {
        let trims = opened("TRIM_HORIZON");
        let page = json!({
            "NextShardIterator": "j",
            "Records": [
                record("INSERT", "007"),
                record("MODIFY", "008"),
                record("INSERT", "009"),
            ],
        });
        let read = request(&json!({"ShardIterator": "i"}));
        let random = &mut fastrand::Rng::with_seed(1);
        let lost = trims.trim(&read, &response(&page), random).unwrap();
        assert!(lost.is_first);
        assert_eq!(lost.page.shard, "s");
        assert_eq!(lost.page.events[0], ("a-007".to_owned(), 1));
        let first = trims.locate(at("TRIM_HORIZON", None)).unwrap().json();
        let horizon = first["SequenceNumber"].as_str().unwrap().to_owned();
        (trims, horizon)
    }

    #[test]
    fn trim_horizon_starts_after_the_trimmed_records() {
        let (trims, horizon) = trimmed();
        assert!(["007", "008", "009"].contains(&horizon.as_str()));
        let body = trims.locate(at("TRIM_HORIZON", None)).unwrap().json();
        assert_eq!(body["ShardIteratorType"], "AFTER_SEQUENCE_NUMBER");
    }

    #[test]
    fn a_position_before_the_horizon_is_rejected() {
        let (trims, horizon) = trimmed();
        for (number, ok) in [("6", false), (horizon.as_str(), true), ("0000010", true)] {
            let located = trims.locate(at("AFTER_SEQUENCE_NUMBER", Some(number)));
            assert_eq!(located.is_ok(), ok, "{number}");
        }
        let at_the_last_trimmed = at("AT_SEQUENCE_NUMBER", Some(&horizon));
        assert!(trims.locate(at_the_last_trimmed).is_err());
        assert!(trims.locate(at("LATEST", None)).is_ok());
    }

    #[test]
    fn an_empty_page_has_nothing_to_trim() {
        let trims = opened("TRIM_HORIZON");
        let read = request(&json!({"ShardIterator": "i"}));
        let page = response(&json!({"Records": []}));
        let random = &mut fastrand::Rng::with_seed(1);
        assert_eq!(trims.trim(&read, &page, random), None);
    }

    #[test]
    fn a_reader_is_tracked_from_page_to_page() {
        let trims = opened("TRIM_HORIZON");
        for (used, next) in [("i", "j"), ("j", "k")] {
            let read = request(&json!({"ShardIterator": used}));
            let records = [record("INSERT", used), record("MODIFY", next)];
            let page = json!({"NextShardIterator": next, "Records": records});
            let expected = Page {
                shard: "s".to_owned(),
                events: vec![(format!("a-{used}"), 1)],
                is_last: false,
            };
            assert_eq!(trims.read(&read, &response(&page)), Some(expected));
        }
        let state = trims.state();
        let mut known: Vec<_> = state.iterators.keys().collect();
        known.sort();
        assert_eq!(known, ["j", "k"]);
        assert!(!state.iterators["k"].is_first, "it has received records");
    }

    #[test]
    fn a_page_that_was_not_received_is_read_again() {
        let trims = opened("TRIM_HORIZON");
        let read = request(&json!({"ShardIterator": "i"}));
        for next in ["j", "k"] {
            let page = json!({"NextShardIterator": next, "Records": [record("INSERT", "1")]});
            let page = trims.read(&read, &response(&page)).unwrap();
            assert_eq!(page.events, [("a-1".to_owned(), 1)]);
        }
        let read = request(&json!({"ShardIterator": "k"}));
        let page = response(&json!({"NextShardIterator": "l", "Records": []}));
        assert!(trims.read(&read, &page).is_some());
    }

    #[test]
    fn the_last_page_of_a_closed_shard_has_no_successor() {
        let trims = opened("LATEST");
        let read = request(&json!({"ShardIterator": "i"}));
        let page = trims.read(&read, &response(&json!({"Records": []})));
        assert!(page.unwrap().is_last);
        assert_eq!(trims.state().iterators.keys().collect::<Vec<_>>(), ["i"]);
    }
}
