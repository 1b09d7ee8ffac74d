//! What SQS takes into a queue and rustack does not look at: the characters of
//! messages, the total size of a batch, and the names of its entries.

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

/// The sum over all entries of a batch.
const MAX_BATCH_BYTES: usize = 1_048_576;
const MAX_BATCH_ENTRIES: usize = 10;
const MAX_ENTRY_ID: usize = 80;

const INVALID_CONTENTS: &str = "InvalidMessageContents";
const CONTENTS_REASON: &str = "Invalid characters found. Valid unicode characters are \
     #x9 | #xA | #xD | [#x20 to #xD7FF] | [#xE000 to #xFFFD] | [#x10000 to #x10FFFF]";

type Attributes = HashMap<String, MessageAttributeValue>;

/// The answer to a `SendMessage` with characters that SQS does not take.
pub(crate) fn refused_message(body: &[u8]) -> Option<Response<SqsResponseBody>> {
    let input: SendMessageInput = serde_json::from_slice(body).ok()?;
    if valid(&input.message_body, &input.message_attributes) {
        return None;
    }
    // rustack's error codes do not include this one.
    let error = serde_json::json!({
        "__type": format!("com.amazonaws.sqs#{INVALID_CONTENTS}"),
        "message": CONTENTS_REASON,
    });
    let mut answer = answer(error.to_string());
    *answer.status_mut() = StatusCode::BAD_REQUEST;
    answer.headers_mut().insert(
        "x-amzn-query-error",
        http::HeaderValue::from_static("InvalidMessageContents;Sender"),
    );
    Some(answer)
}

/// A batch of which some entries fail.
#[derive(Debug)]
pub(crate) struct Sifted {
    /// The request with the others, if there are any.
    pub(crate) accepted: Option<Bytes>,
    pub(crate) failed: Vec<BatchResultErrorEntry>,
}

/// Checks a `SendMessageBatch`. `None` when rustack may see it as it is.
pub(crate) fn sifted_batch(body: &[u8]) -> Result<Option<Sifted>, SqsError> {
    let Ok(mut input) = serde_json::from_slice::<SendMessageBatchInput>(body) else {
        return Ok(None);
    };
    // rustack refuses it, and before anything else is looked at.
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
    let (accepted, refused) = input.entries.into_iter().partition(is_valid);
    input.entries = accepted;
    let refused: Vec<SendMessageBatchRequestEntry> = refused;
    let failed = refused.into_iter().map(|entry| BatchResultErrorEntry {
        id: entry.id,
        sender_fault: true,
        code: INVALID_CONTENTS.to_owned(),
        message: Some(CONTENTS_REASON.to_owned()),
    });
    let accepted = match input.entries.is_empty() {
        true => None,
        false => Some(serde_json::to_vec(&input).map_err(internal)?.into()),
    };
    Ok(Some(Sifted {
        accepted,
        failed: failed.collect(),
    }))
}

/// rustack's answer for the accepted entries, and the failed ones with it.
pub(crate) async fn with_failures(
    accepted: Option<Response<SqsResponseBody>>,
    failed: Vec<BatchResultErrorEntry>,
) -> Result<Response<SqsResponseBody>, SqsError> {
    let mut output = match accepted {
        Some(answer) => {
            let body = answer.into_body().collect().await.map_err(internal)?;
            serde_json::from_slice(&body.to_bytes()).map_err(internal)?
        }
        None => SendMessageBatchOutput::default(),
    };
    output.failed.extend(failed);
    serde_json::to_string(&output).map(answer).map_err(internal)
}

fn answer(json: String) -> Response<SqsResponseBody> {
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

/// Surrogates, the other gap in SQS's list, are no `char`s.
fn is_valid(c: char) -> bool {
    !matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}')
}

fn valid_id(id: &str) -> bool {
    (1..=MAX_ENTRY_ID).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// What SQS counts: the body, and every attribute's name, type and value.
fn size(entry: &SendMessageBatchRequestEntry) -> usize {
    let attributes = entry.message_attributes.iter().map(|(name, value)| {
        let text = value.string_value.as_ref().map_or(0, String::len);
        let binary = value.binary_value.as_ref().map_or(0, Vec::len);
        name.len() + value.data_type.len() + text + binary
    });
    entry.message_body.len() + attributes.sum::<usize>()
}
