//! Checks that SQS makes and rustack does not: the characters of messages, the total size of a
//! batch, and the ids of its entries.

use std::collections::HashMap;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use rustack_sqs_http::body::SqsResponseBody;
use rustack_sqs_model::error::{SqsError, SqsErrorCode};
use rustack_sqs_model::input::{SendMessageBatchInput, SendMessageInput};
use rustack_sqs_model::output::SendMessageBatchOutput;
use rustack_sqs_model::types::{
    BatchResultErrorEntry, MessageAttributeValue, SendMessageBatchRequestEntry,
};

/// Upper bound on the sum over all entries of a batch.
const MAX_BATCH_BYTES: usize = 1_048_576;
const MAX_BATCH_ENTRIES: usize = 10;
const MAX_ENTRY_ID: usize = 80;

const INVALID_CONTENTS: &str = "InvalidMessageContents";
const CONTENTS_REASON: &str = "Invalid characters found. Valid unicode characters are \
     #x9 | #xA | #xD | [#x20 to #xD7FF] | [#xE000 to #xFFFD] | [#x10000 to #x10FFFF]";

type Attributes = HashMap<String, MessageAttributeValue>;

/// Returns the error response to a `SendMessage` with characters that SQS rejects; `None` if it has
/// none.
pub(crate) fn rejection(body: &[u8]) -> Option<Response<SqsResponseBody>> {
    let input: SendMessageInput = serde_json::from_slice(body).ok()?;
    if valid(&input.message_body, &input.message_attributes) {
        return None;
    }
    // rustack has no such error code.
    let error = serde_json::json!({
        "__type": format!("com.amazonaws.sqs#{INVALID_CONTENTS}"),
        "message": CONTENTS_REASON,
    });
    let mut response = response(error.to_string());
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response.headers_mut().insert(
        "x-amzn-query-error",
        http::HeaderValue::from_static("InvalidMessageContents;Sender"),
    );
    Some(response)
}

/// A batch with entries that fail.
#[derive(Debug)]
pub(crate) struct PartialBatch {
    /// The request with the valid entries, if there are any.
    pub(crate) accepted: Option<Bytes>,
    pub(crate) failed: Vec<BatchResultErrorEntry>,
}

/// Checks a `SendMessageBatch`. Returns `None` if rustack can handle it unchanged.
pub(crate) fn partial_batch(body: &[u8]) -> Result<Option<PartialBatch>, SqsError> {
    let Ok(mut input) = serde_json::from_slice::<SendMessageBatchInput>(body) else {
        return Ok(None);
    };
    // rustack rejects it, and SQS checks this first.
    if input.entries.len() > MAX_BATCH_ENTRIES {
        return Ok(None);
    }
    if let Some(entry) = input.entries.iter().find(|entry| !valid_id(&entry.id)) {
        return Err(SqsError::new(
            SqsErrorCode::InvalidBatchEntryId,
            format!(
                "A batch entry id can only contain alphanumeric characters, hyphens and \
                 underscores. It can be at most {MAX_ENTRY_ID} letters long: {:?}",
                entry.id
            ),
        ));
    }
    let total: usize = input.entries.iter().map(size).sum();
    if total > MAX_BATCH_BYTES {
        return Err(SqsError::new(
            SqsErrorCode::BatchRequestTooLong,
            format!(
                "Batch requests cannot be longer than {MAX_BATCH_BYTES} bytes. \
                 You have sent {total} bytes."
            ),
        ));
    }
    let is_valid = |e: &SendMessageBatchRequestEntry| valid(&e.message_body, &e.message_attributes);
    if input.entries.iter().all(is_valid) {
        return Ok(None);
    }
    let (accepted, rejected) = input.entries.into_iter().partition(is_valid);
    input.entries = accepted;
    let rejected: Vec<SendMessageBatchRequestEntry> = rejected;
    let failed = rejected.into_iter().map(|entry| BatchResultErrorEntry {
        id: entry.id,
        sender_fault: true,
        code: INVALID_CONTENTS.to_owned(),
        message: Some(CONTENTS_REASON.to_owned()),
    });
    let accepted = match input.entries.is_empty() {
        true => None,
        false => Some(serde_json::to_vec(&input).map_err(internal)?.into()),
    };
    Ok(Some(PartialBatch {
        accepted,
        failed: failed.collect(),
    }))
}

/// Returns rustack's response for the accepted entries, completed by the failed ones.
pub(crate) async fn with_failures(
    accepted: Option<Response<SqsResponseBody>>,
    failed: Vec<BatchResultErrorEntry>,
) -> Result<Response<SqsResponseBody>, SqsError> {
    let mut output = match accepted {
        Some(response) => {
            let body = response.into_body().collect().await.map_err(internal)?;
            serde_json::from_slice(&body.to_bytes()).map_err(internal)?
        }
        None => SendMessageBatchOutput::default(),
    };
    output.failed.extend(failed);
    serde_json::to_string(&output)
        .map(response)
        .map_err(internal)
}

fn response(json: String) -> Response<SqsResponseBody> {
    // rustack adds the remaining headers.
    Response::new(SqsResponseBody::from_bytes(json))
}

fn internal(error: impl std::fmt::Display) -> SqsError {
    SqsError::internal_error(error.to_string())
}

fn valid(body: &str, attributes: &Attributes) -> bool {
    let values = attributes
        .values()
        .filter_map(|v| v.string_value.as_deref());
    std::iter::once(body)
        .chain(values)
        .all(|text| text.chars().all(is_valid))
}

/// Returns `true` if SQS accepts the character. Surrogates, the other gap in its list, are not
/// `char`s.
fn is_valid(c: char) -> bool {
    !matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}')
}

fn valid_id(id: &str) -> bool {
    (1..=MAX_ENTRY_ID).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// Returns the size as SQS counts it: the body, and the name, type and value of each attribute.
fn size(entry: &SendMessageBatchRequestEntry) -> usize {
    let attributes = entry.message_attributes.iter().map(|(name, value)| {
        let text = value.string_value.as_ref().map_or(0, String::len);
        let binary = value.binary_value.as_ref().map_or(0, Vec::len);
        name.len() + value.data_type.len() + text + binary
    });
    entry.message_body.len() + attributes.sum::<usize>()
}
