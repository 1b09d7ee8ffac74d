//! Checks and normalises the attributes of queues and the bounds of parameters:
//!
//! - rustack accepts a negative visibility timeout, which would terminate the queue's task.
//! - rustack parses `maxReceiveCount` only as a number; SQS also accepts a string. And a redrive
//!   policy that is spelled differently but means the same would make a second `CreateQueue` fail.
//! - A `NextToken` near the largest integer would close the connection.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use bytes::Bytes;
use rustack_sqs_model::error::SqsError;
use rustack_sqs_model::input::{
    ChangeMessageVisibilityBatchInput, ChangeMessageVisibilityInput, CreateQueueInput,
    ListQueuesInput, ReceiveMessageInput, SetQueueAttributesInput,
};
use rustack_sqs_model::operations::SqsOperation;
use rustack_sqs_model::types::RedrivePolicy;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// In seconds. Source of this and the other bounds: the SQS API reference.
const VISIBILITY_TIMEOUT: RangeInclusive<i32> = 0..=43_200;
const WAIT_TIME: RangeInclusive<i32> = 0..=20;
const MAX_RECEIVE_COUNT: RangeInclusive<i32> = 1..=1_000;

/// Returns the body to pass to rustack.
///
/// # Errors
/// The error with which SQS rejects the request.
pub(crate) fn checked(op: SqsOperation, body: Bytes) -> Result<Bytes, SqsError> {
    match op {
        SqsOperation::CreateQueue => {
            rewritten(body, |input: &mut CreateQueueInput| &mut input.attributes)
        }
        SqsOperation::SetQueueAttributes => {
            rewritten(body, |input: &mut SetQueueAttributesInput| {
                &mut input.attributes
            })
        }
        SqsOperation::ReceiveMessage => inspected(body, |input: &ReceiveMessageInput| {
            if let Some(seconds) = input.visibility_timeout {
                within("VisibilityTimeout", seconds, VISIBILITY_TIMEOUT)?;
            }
            let seconds = input.wait_time_seconds.unwrap_or(0);
            within("WaitTimeSeconds", seconds, WAIT_TIME)
        }),
        SqsOperation::ChangeMessageVisibility => {
            inspected(body, |input: &ChangeMessageVisibilityInput| {
                let seconds = input.visibility_timeout;
                within("VisibilityTimeout", seconds, VISIBILITY_TIMEOUT)
            })
        }
        SqsOperation::ChangeMessageVisibilityBatch => {
            inspected(body, |input: &ChangeMessageVisibilityBatchInput| {
                let mut seconds = input.entries.iter().map(|entry| entry.visibility_timeout);
                seconds.try_for_each(|s| within("VisibilityTimeout", s, VISIBILITY_TIMEOUT))
            })
        }
        SqsOperation::ListQueues => inspected(body, |input: &ListQueuesInput| {
            // The tokens that rustack issues are small numbers.
            match input.next_token.as_deref().map(str::parse::<u32>) {
                None | Some(Ok(_)) => Ok(()),
                Some(Err(_)) => Err(SqsError::invalid_parameter_value("Invalid NextToken.")),
            }
        }),
        _ => Ok(body),
    }
}

/// Checks the input as rustack will parse it. rustack itself rejects input that it cannot parse.
fn inspected<T: DeserializeOwned>(
    body: Bytes,
    check: impl FnOnce(&T) -> Result<(), SqsError>,
) -> Result<Bytes, SqsError> {
    if let Ok(input) = serde_json::from_slice(&body) {
        check(&input)?;
    }
    Ok(body)
}

fn within(name: &str, value: i32, bounds: RangeInclusive<i32>) -> Result<(), SqsError> {
    if bounds.contains(&value) {
        return Ok(());
    }
    Err(SqsError::invalid_parameter_value(format!(
        "Value {value} for parameter {name} is invalid. Reason: Must be between {} and {}.",
        bounds.start(),
        bounds.end(),
    )))
}

/// Rewrites the redrive policy among the attributes in rustack's own spelling.
fn rewritten<T: DeserializeOwned + Serialize>(
    body: Bytes,
    attributes: impl FnOnce(&mut T) -> &mut HashMap<String, String>,
) -> Result<Bytes, SqsError> {
    let Ok(mut input) = serde_json::from_slice::<T>(&body) else {
        return Ok(body);
    };
    // An empty policy removes the policy.
    let policy = attributes(&mut input).get_mut("RedrivePolicy");
    let Some(policy) = policy.filter(|policy| !policy.is_empty()) else {
        return Ok(body);
    };
    *policy = redrive_policy(policy)?;
    serde_json::to_vec(&input)
        .map(Bytes::from)
        .map_err(|error| SqsError::internal_error(error.to_string()))
}

fn redrive_policy(text: &str) -> Result<String, SqsError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Sent {
        dead_letter_target_arn: String,
        max_receive_count: Count,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Count {
        Number(i32),
        Text(String),
    }

    let invalid = |reason: String| {
        SqsError::invalid_parameter_value(format!(
            "Value {text} for parameter RedrivePolicy is invalid. Reason: {reason}"
        ))
    };
    let sent: Sent = serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
    let count = match sent.max_receive_count {
        Count::Number(count) => Some(count),
        Count::Text(count) => count.parse().ok(),
    };
    let max_receive_count = count
        .filter(|count| MAX_RECEIVE_COUNT.contains(count))
        .ok_or_else(|| invalid("maxReceiveCount must be from 1 to 1000.".to_owned()))?;
    serde_json::to_string(&RedrivePolicy {
        dead_letter_target_arn: sent.dead_letter_target_arn,
        max_receive_count,
    })
    .map_err(|error| SqsError::internal_error(error.to_string()))
}
