//! The `Idempotency-Key` header, its stored record, and the hash by which requests are compared.

use std::collections::HashMap;
use std::fmt::Write;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use axum::http::{HeaderMap, HeaderName};
use outbox::timestamp::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use shared::order::{CustomerId, OrderId};

use crate::error::ApiError;
use crate::headers::single_value;
use crate::validate::NewOrder;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Separates the customer id from the key in a record. A customer id does not contain it.
const SCOPE_END: char = '#';

/// Period of validity of a key.
const KEY_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// A client's key: 1–255 visible ASCII characters.
#[derive(Debug)]
pub(super) struct IdempotencyKey {
    /// Without the quotes that a structured field (RFC 9651) has around a string.
    text: String,
    /// As it was sent.
    header: String,
}

/// A key of a customer, and the request that it identifies.
#[derive(Debug)]
pub(super) struct Claim {
    key: IdempotencyKey,
    customer_id: CustomerId,
    request_hash: String,
}

/// The stored item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct KeyRecord {
    pub(super) idempotency_key: String,
    pub(super) request_hash: String,
    pub(super) order_id: OrderId,
    /// Time to live, in epoch seconds. DynamoDB deletes the record some time later, so that an
    /// expired record may still be stored.
    pub(super) expires_at: i64,
}

impl IdempotencyKey {
    /// Returns the key, if the client sent one.
    ///
    /// # Errors
    /// [`ApiError::IdempotencyKey`] if the header is malformed or repeated.
    pub(super) fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, ApiError> {
        match single_value(headers, &IDEMPOTENCY_KEY) {
            None => Ok(None),
            Some(Ok(header)) => Some(unquoted(header))
                .filter(|text| (1..=255).contains(&text.len()))
                .filter(|text| text.bytes().all(|c| c.is_ascii_graphic()))
                .map(|text| {
                    Some(Self {
                        text,
                        header: header.to_owned(),
                    })
                })
                .ok_or(ApiError::IdempotencyKey(
                    "must be 1 to 255 visible ASCII characters without spaces",
                )),
            Some(Err(())) if headers.get_all(IDEMPOTENCY_KEY).iter().count() > 1 => {
                Err(ApiError::IdempotencyKey("must be given once"))
            }
            Some(Err(())) => Err(ApiError::IdempotencyKey(
                "must be 1 to 255 visible ASCII characters without spaces",
            )),
        }
    }
}

/// Returns the string that a structured field stands for, or the text itself if it is none.
fn unquoted(header: &str) -> String {
    let inner = header
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    let Some(inner) = inner else {
        return header.to_owned();
    };
    let mut text = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(escaped @ ('"' | '\\')) => text.push(escaped),
                _ => return header.to_owned(),
            },
            '"' => return header.to_owned(),
            other => text.push(other),
        }
    }
    text
}

impl Claim {
    pub(super) fn new(key: IdempotencyKey, request: &NewOrder) -> Self {
        Self {
            key,
            customer_id: request.customer_id.clone(),
            request_hash: request_hash(request),
        }
    }

    /// Returns `true` if `record` was written for the same request.
    pub(super) fn matches(&self, record: &KeyRecord) -> bool {
        self.request_hash == record.request_hash
    }

    pub(super) fn customer_id(&self) -> &CustomerId {
        &self.customer_id
    }

    /// Returns the key under which earlier releases stored the record of this request: the header
    /// alone, in which customers could collide. `None` if a record of this release for another key
    /// of the customer could be stored there.
    pub(super) fn unscoped_key(&self) -> Option<&str> {
        let key = self.key.header.as_str();
        let rest = key.strip_prefix(self.customer_id.as_str());
        let is_scoped = rest.is_some_and(|rest| rest.starts_with(SCOPE_END));
        (!is_scoped).then_some(key)
    }

    /// Returns the record that binds the key to `order_id` from `now` on.
    pub(super) fn record(&self, order_id: OrderId, now: Timestamp) -> KeyRecord {
        KeyRecord {
            idempotency_key: format!("{}{SCOPE_END}{}", self.customer_id, self.key.text),
            request_hash: self.request_hash.clone(),
            order_id,
            expires_at: now.as_seconds() + KEY_TTL.as_secs().cast_signed(),
        }
    }
}

impl KeyRecord {
    pub(super) fn to_item(&self) -> Result<HashMap<String, AttributeValue>, serde_dynamo::Error> {
        serde_dynamo::aws_sdk_dynamodb_1::to_item(self)
    }

    pub(super) fn from_item(
        item: HashMap<String, AttributeValue>,
    ) -> Result<Self, serde_dynamo::Error> {
        serde_dynamo::aws_sdk_dynamodb_1::from_item(item)
    }
}

/// Returns the SHA-256, in hexadecimal, of the request in canonical form: white space, the order of
/// members and the escapes in strings do not matter.
fn request_hash(request: &NewOrder) -> String {
    let canonical = serde_json::to_vec(request).expect("text and whole numbers are always JSON");
    Sha256::digest(&canonical)
        .iter()
        .fold(String::with_capacity(64), |mut hex, byte| {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::strict_json::Json;
    use crate::validate;

    fn hash(body: &str) -> String {
        request_hash(&validate::order(Json::parse(body.as_bytes()).unwrap()).unwrap())
    }

    #[test]
    fn the_hash_depends_only_on_the_content_of_the_order() {
        let first = hash(
            r#"{"customer_id":"c-1","currency":"EUR","items":[{"sku":"A","quantity":1,"unit_price_minor":2}]}"#,
        );
        let respelled = hash(
            r#" { "items":[{"unit_price_minor":2,"quantity":1,"sku":"\u0041"}],
                "currency":"EUR", "customer_id":"c-1" } "#,
        );
        let another = hash(
            r#"{"customer_id":"c-1","currency":"EUR","items":[{"sku":"A","quantity":2,"unit_price_minor":1}]}"#,
        );
        assert_eq!(first.len(), 64);
        assert_eq!(first, respelled);
        assert_ne!(first, another);
    }

    #[test]
    fn a_key_with_and_without_quotes_is_the_same() {
        for (header, text) in [
            ("k-1", "k-1"),
            ("\"k-1\"", "k-1"),
            (r#""a\"b\\c""#, r#"a"b\c"#),
            // Not structured fields.
            ("\"", "\""),
            ("\"k", "\"k"),
            ("k\"", "k\""),
            (r#""a"b""#, r#""a"b""#),
            (r#""a\b""#, r#""a\b""#),
            (r#""a\""#, r#""a\""#),
        ] {
            assert_eq!(unquoted(header), text, "{header}");
        }
    }

    #[test]
    fn the_hash_does_not_change_between_releases() {
        // Records of the last 24 hours were written by the previous release.
        let canonical = br#"{"customer_id":"c-1","currency":"EUR","items":[{"sku":"A","quantity":1,"unit_price_minor":2}]}"#;
        let expected = Sha256::digest(canonical)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>();
        assert_eq!(hash(std::str::from_utf8(canonical).unwrap()), expected);
    }

    proptest! {
        #[test]
        fn a_stored_record_is_read_back_unchanged(
            idempotency_key in "[!-~]{1,255}",
            request_hash in "[0-9a-f]{64}",
            expires_at in any::<i64>(),
        ) {
            let record = KeyRecord {
                idempotency_key,
                request_hash,
                order_id: OrderId::generate(),
                expires_at,
            };
            prop_assert_eq!(KeyRecord::from_item(record.to_item().unwrap()).unwrap(), record);
        }
    }
}
