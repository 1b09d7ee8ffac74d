//! The errors that services give by themselves, as they give them.

use http::StatusCode;
use serde_json::json;

use super::protocol::{Call, Refusal};
use crate::history::CloudService;

/// Too many requests.
pub(super) fn throttled(call: &Call, random: &mut fastrand::Rng) -> Refusal {
    const EXCEEDED: &str = "The level of configured provisioned throughput for the table was exceeded. Consider increasing your provisioning level with the UpdateTable API.";
    match (call.service, call.operation.as_str()) {
        // A throttled transaction is cancelled as often as it is refused.
        (CloudService::Dynamodb, "TransactWriteItems") if random.bool() => {
            let code = if random.bool() {
                "ThrottlingError"
            } else {
                "ProvisionedThroughputExceeded"
            };
            cancelled(call, code, EXCEEDED, random)
        }
        (CloudService::Dynamodb, _) => match random.u8(..3) {
            0 => Refusal::new("ProvisionedThroughputExceededException", EXCEEDED),
            1 => Refusal::new(
                "RequestLimitExceeded",
                "Throughput exceeds the current throughput limit for your account.",
            ),
            _ => Refusal::new(
                "ThrottlingException",
                "Rate of requests exceeds the allowed throughput.",
            ),
        },
        (CloudService::Streams, "GetRecords" | "DescribeStream") if random.bool() => Refusal::new(
            "LimitExceededException",
            "Subscriber limit exceeded for the shard.",
        ),
        (CloudService::Streams, _) => Refusal::new(
            "ThrottlingException",
            "Rate of requests exceeds the allowed throughput.",
        ),
        (CloudService::Sqs, _) if random.bool() => {
            Refusal::new("RequestThrottled", "Request is throttled.")
                .with_status(StatusCode::FORBIDDEN)
        }
        (CloudService::Sqs, _) => Refusal::new("ThrottlingException", "Rate exceeded"),
    }
}

/// 500: the request may have taken effect or not.
pub(super) fn failed(service: CloudService) -> Refusal {
    let code = match service {
        CloudService::Sqs => "InternalError",
        CloudService::Dynamodb | CloudService::Streams => "InternalServerError",
    };
    Refusal::new(code, "Internal server error").with_status(StatusCode::INTERNAL_SERVER_ERROR)
}

/// 503: nobody is there to take the request.
pub(super) fn unavailable() -> Refusal {
    Refusal::new("ServiceUnavailable", "Service is unavailable.")
        .with_status(StatusCode::SERVICE_UNAVAILABLE)
}

/// Another transaction holds one of the items.
pub(super) fn conflict(call: &Call, random: &mut fastrand::Rng) -> Refusal {
    let message = "Transaction is ongoing for the item";
    cancelled(call, "TransactionConflict", message, random)
}

/// An earlier request with the same token still runs.
pub(super) fn in_progress() -> Refusal {
    Refusal::new(
        "TransactionInProgressException",
        "Transaction token is for an ongoing request. Please retry with exponential backoff.",
    )
}

/// An iterator is older than 15 minutes.
pub(super) fn expired() -> Refusal {
    Refusal::new(
        "ExpiredIteratorException",
        "Iterator expired. The iterator was created more than 15 minutes ago.",
    )
}

/// A position is older than the oldest record.
pub(super) fn trimmed() -> Refusal {
    Refusal::new(
        "TrimmedDataAccessException",
        "The operation attempted to read past the oldest stream record in a shard.",
    )
}

/// A transaction that one of its actions, drawn at random, stopped.
fn cancelled(call: &Call, code: &str, message: &str, random: &mut fastrand::Rng) -> Refusal {
    let actions = call.json()["TransactItems"]
        .as_array()
        .map_or(1, |items| items.len().max(1));
    let stopped = random.usize(..actions);
    let codes: Vec<_> = (0..actions)
        .map(|n| if n == stopped { code } else { "None" })
        .collect();
    let reasons: Vec<_> = codes
        .iter()
        .map(|code| match *code {
            "None" => json!({"Code": "None"}),
            code => json!({"Code": code, "Message": message}),
        })
        .collect();
    let text = format!(
        "Transaction cancelled, please refer cancellation reasons for specific reasons [{}]",
        codes.join(", ")
    );
    Refusal {
        details: Some(("CancellationReasons", reasons.into())),
        ..Refusal::new("TransactionCanceledException", text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancelled_transaction_has_a_reason_for_each_action() {
        let body = json!({"TransactItems": [{"Put": {}}, {"Put": {}}, {"Update": {}}]});
        let call = Call::of(CloudService::Dynamodb, "TransactWriteItems", &body);
        let refusal = conflict(&call, &mut fastrand::Rng::with_seed(1));
        let Some((name, reasons)) = refusal.details else {
            panic!("no reasons");
        };
        assert_eq!(name, "CancellationReasons");
        let codes: Vec<_> = reasons
            .as_array()
            .unwrap()
            .iter()
            .map(|reason| reason["Code"].as_str().unwrap())
            .collect();
        assert_eq!(codes.len(), 3);
        let conflicts = codes.iter().filter(|code| **code == "TransactionConflict");
        assert_eq!(conflicts.count(), 1);
        assert!(
            refusal
                .message
                .ends_with(&format!("[{}]", codes.join(", ")))
        );
    }
}
