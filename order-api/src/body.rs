//! Reads the body of a request within its bounds: content type, size and time.

use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes, HttpBody};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, EXPECT};
use futures::StreamExt;
use tokio::time::Instant;

use crate::error::ApiError;
use crate::headers::single_value;

/// The largest body that is accepted, in bytes.
pub(crate) const MAX_BODY_BYTES: usize = 64 * 1024;

/// A rejected body is still drained from the connection, up to this many bytes and for this long.
/// If the connection were closed while the client writes, the client's system would discard the
/// response unread.
const MAX_DRAINED_BYTES: usize = 16 * 1024 * 1024;
const MAX_DRAIN_TIME: Duration = Duration::from_secs(2);

/// Reads a JSON body of at most [`MAX_BODY_BYTES`], until `deadline`.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: Body,
    deadline: Instant,
) -> Result<Bytes, ApiError> {
    let declared = body.size_hint().lower();
    let mut chunks = body.into_data_stream();
    let rejected = if !is_json(headers) {
        Some(ApiError::ContentType)
    } else if is_encoded(headers) {
        Some(ApiError::ContentEncoding)
    } else if declared > MAX_BODY_BYTES as u64 {
        Some(ApiError::BodyTooLarge)
    } else {
        None
    };
    if let Some(error) = rejected {
        discard(headers, chunks, deadline).await;
        return Err(error);
    }

    // Grows with what arrives: the declared length costs a client nothing.
    let mut bytes = Vec::new();
    loop {
        match tokio::time::timeout_at(deadline, chunks.next()).await {
            Err(_) => return Err(ApiError::BodyTooSlow),
            Ok(None) => return Ok(bytes.into()),
            Ok(Some(Err(_))) => return Err(ApiError::BodyCut),
            Ok(Some(Ok(chunk))) if bytes.len() + chunk.len() > MAX_BODY_BYTES => {
                drain(&mut chunks, deadline).await;
                return Err(ApiError::BodyTooLarge);
            }
            Ok(Some(Ok(chunk))) => bytes.extend_from_slice(&chunk),
        }
    }
}

/// Discards the body of a request that is rejected by its headers.
pub(crate) async fn discard(headers: &HeaderMap, mut chunks: BodyDataStream, deadline: Instant) {
    // A client that expects `100 Continue` has not sent its body yet.
    if !headers.contains_key(EXPECT) {
        drain(&mut chunks, deadline).await;
    }
}

async fn drain(chunks: &mut BodyDataStream, deadline: Instant) {
    let until = deadline.min(Instant::now() + MAX_DRAIN_TIME);
    let mut drained = 0;
    while drained < MAX_DRAINED_BYTES {
        match tokio::time::timeout_at(until, chunks.next()).await {
            Ok(Some(Ok(chunk))) => drained += chunk.len(),
            _ => return,
        }
    }
}

/// Returns `true` for `application/json` in UTF-8, the only encoding of JSON.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(Ok(text)) = single_value(headers, &CONTENT_TYPE) else {
        return false;
    };
    let (essence, parameters) = text.split_once(';').unwrap_or((text, ""));
    essence.trim().eq_ignore_ascii_case("application/json")
        && parameters.split(';').all(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = value.trim().trim_matches('"');
            !name.trim().eq_ignore_ascii_case("charset") || value.eq_ignore_ascii_case("utf-8")
        })
}

fn is_encoded(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CONTENT_TYPE, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn json_is_application_json_in_utf_8() {
        for right in [
            "application/json",
            "Application/JSON; charset=UTF-8",
            "application/json;charset=\"utf-8\"",
            "application/json; profile=x",
        ] {
            assert!(is_json(&headers(&[right])), "{right}");
        }
        for wrong in [
            "text/plain",
            "application/jsonp",
            "application/json; charset=latin1",
            "application/x-www-form-urlencoded",
            "",
        ] {
            assert!(!is_json(&headers(&[wrong])), "{wrong}");
        }
        assert!(!is_json(&headers(&[])));
        assert!(!is_json(&headers(&["application/json", "text/plain"])));
    }
}
