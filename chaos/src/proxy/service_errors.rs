//! Errors of the services, in the form in which the services return them.

use http::StatusCode;
use serde_json::json;
use test_support::fault_proxy::{AwsRequest, ServiceError};

use crate::history::CloudService;

/// Returns a throttling error.
pub(super) fn throttled(request: &AwsRequest, random: &mut fastrand::Rng) -> ServiceError {
    const EXCEEDED: &str = "The level of configured provisioned throughput for the table was exceeded. Consider increasing your provisioning level with the UpdateTable API.";
    match (request.service, request.operation.as_str()) {
        // A throttled transaction is either cancelled or rejected.
        (CloudService::Dynamodb, "TransactWriteItems") if random.bool() => {
            let code = if random.bool() {
                "ThrottlingError"
            } else {
                "ProvisionedThroughputExceeded"
            };
            cancelled(request, code, EXCEEDED, random)
        }
        (CloudService::Dynamodb, _) => match random.u8(..3) {
            0 => ServiceError::new("ProvisionedThroughputExceededException", EXCEEDED),
            1 => ServiceError::new(
                "RequestLimitExceeded",
                "Throughput exceeds the current throughput limit for your account.",
            ),
            _ => ServiceError::new(
                "ThrottlingException",
                "Rate of requests exceeds the allowed throughput.",
            ),
        },
        (CloudService::Streams, "GetRecords" | "DescribeStream") if random.bool() => {
            ServiceError::new(
                "LimitExceededException",
                "Subscriber limit exceeded for the shard.",
            )
        }
        (CloudService::Streams, _) => ServiceError::new(
            "ThrottlingException",
            "Rate of requests exceeds the allowed throughput.",
        ),
        (CloudService::Sqs, _) if random.bool() => {
            ServiceError::new("RequestThrottled", "Request is throttled.")
                .with_status(StatusCode::FORBIDDEN)
        }
        (CloudService::Sqs, _) => ServiceError::new("ThrottlingException", "Rate exceeded"),
    }
}

/// Returns status 500: the request may or may not have taken effect.
pub(super) fn failed(service: CloudService) -> ServiceError {
    let code = match service {
        CloudService::Sqs => "InternalError",
        CloudService::Dynamodb | CloudService::Streams => "InternalServerError",
    };
    ServiceError::new(code, "Internal server error").with_status(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Returns status 503: the request had no effect.
pub(super) fn unavailable() -> ServiceError {
    ServiceError::new("ServiceUnavailable", "Service is unavailable.")
        .with_status(StatusCode::SERVICE_UNAVAILABLE)
}

/// Returns the error for a conflict with another transaction.
pub(super) fn conflict(request: &AwsRequest, random: &mut fastrand::Rng) -> ServiceError {
    let message = "Transaction is ongoing for the item";
    cancelled(request, "TransactionConflict", message, random)
}

/// Returns the error for a token whose earlier request is still in progress.
pub(super) fn in_progress() -> ServiceError {
    ServiceError::new(
        "TransactionInProgressException",
        "Transaction token is for an ongoing request. Please retry with exponential backoff.",
    )
}

/// Returns the error for an iterator older than 15 minutes.
pub(super) fn expired() -> ServiceError {
    ServiceError::new(
        "ExpiredIteratorException",
        "Iterator expired. The iterator was created more than 15 minutes ago.",
    )
}

/// Returns the error for a position before the oldest record.
pub(super) fn trimmed() -> ServiceError {
    ServiceError::new(
        "TrimmedDataAccessException",
        "The operation attempted to read past the oldest stream record in a shard.",
    )
}

/// Returns the error for a transaction that was cancelled by one of its actions, chosen at random.
fn cancelled(
    request: &AwsRequest,
    code: &str,
    message: &str,
    random: &mut fastrand::Rng,
) -> ServiceError {
    let actions = request.json()["TransactItems"]
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
    ServiceError {
        details: Some(("CancellationReasons", reasons.into())),
        ..ServiceError::new("TransactionCanceledException", text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancelled_transaction_has_a_reason_for_each_action() {
        let body = json!({"TransactItems": [{"Put": {}}, {"Put": {}}, {"Update": {}}]});
        let request = AwsRequest::of(CloudService::Dynamodb, "TransactWriteItems", &body);
        let error = conflict(&request, &mut fastrand::Rng::with_seed(1));
        let Some((name, reasons)) = error.details else {
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
        assert!(error.message.ends_with(&format!("[{}]", codes.join(", "))));
    }
}
