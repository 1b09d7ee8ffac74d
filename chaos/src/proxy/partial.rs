//! Batches that fail in part. The failed part is not forwarded; the rest takes effect, and the two
//! responses are merged.

use serde_json::{Value, json};
use test_support::fault_proxy::AwsRequest;

/// Items of a list with their indices, in ascending order.
type Placed = Vec<(usize, Value)>;

/// Failed part of a batch, in the form of the response.
#[derive(Debug, PartialEq)]
pub(super) enum Failed {
    /// Entries of an SQS batch, in its `Failed`.
    Entries(Vec<Value>),
    /// Statements of a BatchExecuteStatement, by their place in `Responses`.
    Statements(Placed),
}

/// A batch in two parts.
#[derive(Debug)]
pub(super) struct Split {
    /// Forwarded part; `None` if the whole batch fails.
    pub(super) rest: Option<AwsRequest>,
    pub(super) failed: Failed,
}

/// Splits a SendMessageBatch or DeleteMessageBatch; `None` when it is empty.
pub(super) fn split_entries(request: &AwsRequest, random: &mut fastrand::Rng) -> Option<Split> {
    let mut body = request.json();
    let (rest, failed) = divide(body["Entries"].as_array()?, random)?;
    let failed = failed
        .into_iter()
        .map(|(_, entry)| {
            json!({
                "Id": entry["Id"],
                "Code": "InternalError",
                "Message": "We encountered an internal error. Please try again.",
                "SenderFault": false,
            })
        })
        .collect();
    body["Entries"] = rest.into();
    Some(Split {
        rest: forwarded(request, &body, "Entries"),
        failed: Failed::Entries(failed),
    })
}

/// Splits a BatchExecuteStatement; `None` when it is empty.
pub(super) fn split_statements(request: &AwsRequest, random: &mut fastrand::Rng) -> Option<Split> {
    const TRANSIENT: [&str; 4] = [
        "InternalServerError",
        "ProvisionedThroughputExceeded",
        "ThrottlingError",
        "TransactionConflict",
    ];
    let mut body = request.json();
    let (rest, failed) = divide(body["Statements"].as_array()?, random)?;
    let failed = failed
        .into_iter()
        .map(|(place, _)| {
            let code = TRANSIENT[random.usize(..TRANSIENT.len())];
            let error = json!({"Error": {"Code": code, "Message": "Please try again."}});
            (place, error)
        })
        .collect();
    body["Statements"] = rest.into();
    Some(Split {
        rest: forwarded(request, &body, "Statements"),
        failed: Failed::Statements(failed),
    })
}

/// Divides `items` into a forwarded and a failed part: at least one item fails, each other one with
/// even probability.
fn divide(items: &[Value], random: &mut fastrand::Rng) -> Option<(Vec<Value>, Placed)> {
    if items.is_empty() {
        return None;
    }
    let certain = random.usize(..items.len());
    let mut rest = Vec::new();
    let mut failed = Vec::new();
    for (place, item) in items.iter().enumerate() {
        if place == certain || random.bool() {
            failed.push((place, item.clone()));
        } else {
            rest.push(item.clone());
        }
    }
    Some((rest, failed))
}

fn forwarded(request: &AwsRequest, body: &Value, list: &str) -> Option<AwsRequest> {
    let left = body[list].as_array().is_some_and(|left| !left.is_empty());
    left.then(|| request.with_body(body))
}

impl Failed {
    /// Merges the failures into the service's response to the rest, which is `Null` if nothing was
    /// forwarded.
    pub(super) fn merge(self, mut answer: Value) -> Value {
        if answer.is_null() {
            answer = json!({});
        }
        match self {
            Self::Entries(entries) => {
                let mut failed = take_list(&mut answer, "Failed");
                failed.extend(entries);
                answer["Failed"] = failed.into();
                if answer["Successful"].is_null() {
                    answer["Successful"] = json!([]);
                }
            }
            Self::Statements(statements) => {
                let mut responses = take_list(&mut answer, "Responses");
                // In ascending order, so that each is inserted at its index.
                for (place, response) in statements {
                    responses.insert(place.min(responses.len()), response);
                }
                answer["Responses"] = responses.into();
            }
        }
        answer
    }
}

fn take_list(answer: &mut Value, name: &str) -> Vec<Value> {
    match answer[name].take() {
        Value::Array(list) => list,
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::CloudService;

    fn batch(count: usize) -> AwsRequest {
        let entries: Vec<_> = (0..count).map(|n| json!({"Id": n.to_string()})).collect();
        let body = json!({"QueueUrl": "q", "Entries": entries});
        AwsRequest::of(CloudService::Sqs, "SendMessageBatch", &body)
    }

    /// Returns the response of the service.
    fn successes(request: &AwsRequest) -> Value {
        let body = request.json();
        let ids = body["Entries"].as_array().unwrap().iter();
        let successful: Vec<_> = ids.map(|entry| json!({"Id": entry["Id"]})).collect();
        json!({"Successful": successful})
    }

    #[test]
    fn every_entry_is_forwarded_or_failed_and_answered_once() {
        for seed in 0..100 {
            let random = &mut fastrand::Rng::with_seed(seed);
            let split = split_entries(&batch(10), random).unwrap();
            let answer = split.rest.as_ref().map(successes).unwrap_or_default();
            let forwarded = answer["Successful"].as_array().map_or(0, Vec::len);
            let answer = split.failed.merge(answer);
            let failed = answer["Failed"].as_array().unwrap();
            assert!(!failed.is_empty());
            assert_eq!(forwarded + failed.len(), 10);
            let mut ids: Vec<_> = ["Successful", "Failed"]
                .iter()
                .flat_map(|list| answer[list].as_array().unwrap())
                .map(|entry| entry["Id"].as_str().unwrap())
                .collect();
            ids.sort_unstable();
            assert_eq!(ids, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
        }
    }

    #[test]
    fn a_batch_of_one_fails_whole_and_is_not_forwarded() {
        let split = split_entries(&batch(1), &mut fastrand::Rng::with_seed(1)).unwrap();
        assert!(split.rest.is_none());
        let answer = split.failed.merge(Value::Null);
        assert_eq!(answer["Successful"], json!([]));
        assert_eq!(answer["Failed"][0]["Id"], "0");
        assert_eq!(answer["Failed"][0]["SenderFault"], false);
        assert!(split_entries(&batch(0), &mut fastrand::Rng::with_seed(1)).is_none());
    }

    #[test]
    fn statements_are_answered_in_their_places() {
        for seed in 0..100 {
            let random = &mut fastrand::Rng::with_seed(seed);
            let statements: Vec<_> = (0..25).map(|n| json!({"Statement": n})).collect();
            let body = json!({"Statements": statements});
            let request = AwsRequest::of(CloudService::Dynamodb, "BatchExecuteStatement", &body);
            let split = split_statements(&request, random).unwrap();
            let executed: Vec<_> = split.rest.map_or_else(Vec::new, |rest| {
                rest.json()["Statements"].as_array().unwrap().clone()
            });
            let answer = split.failed.merge(json!({"Responses": executed}));
            let responses = answer["Responses"].as_array().unwrap();
            assert_eq!(responses.len(), 25);
            for (place, response) in responses.iter().enumerate() {
                let fits = response["Statement"] == place || response["Error"].is_object();
                assert!(fits, "seed {seed}, place {place}: {response}");
            }
        }
    }
}
