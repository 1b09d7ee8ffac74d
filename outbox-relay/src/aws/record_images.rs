//! Removes the images of modified and removed items from a response of `GetRecords` before the SDK
//! decodes it.
//!
//! Each published event returns as a record of its own mark, with the whole payload. Only the
//! images of new items are used.

use std::ops::Range;

use aws_sdk_dynamodbstreams::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_dynamodbstreams::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodbstreams::error::BoxError;
use aws_smithy_types::body::SdkBody;
use futures::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use memchr::memmem;

/// Names of the events whose images are not used, as they are in JSON text.
const UNUSED: [&[u8]; 2] = [br#""MODIFY""#, br#""REMOVE""#];

/// Interceptor of `GetRecords` that removes the images.
#[derive(Debug)]
pub(super) struct WithoutImages;

impl Intercept for WithoutImages {
    fn name(&self) -> &'static str {
        "WithoutImages"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = context.response_mut().body_mut();
        let read = std::mem::replace(body, SdkBody::taken());
        // The body has not been received yet.
        let kept = async {
            let body = read.collect().await?.to_bytes();
            let kept = without_images(&body);
            Ok::<_, BoxError>(Frame::data(kept.map_or(body, Into::into)))
        };
        *body = SdkBody::from_body_1_x(StreamBody::new(stream::once(kept)));
        Ok(())
    }
}

/// Returns `body` with `{}` in place of the images of modified and removed items, or `None` if it
/// has none or is not a response of `GetRecords`.
fn without_images(body: &[u8]) -> Option<Vec<u8>> {
    // Many pages are all new items. The scan costs them several times as much as this search.
    let is_of = |event: &[u8]| memmem::find(body, event).is_some();
    if !UNUSED.into_iter().any(is_of) {
        return None;
    }
    let mut json = Scanner { text: body, at: 0 };
    let mut images = Vec::new();
    json.object(&mut |json, name| match name {
        b"Records" => json.array(&mut |json| unused_images(json, &mut images)),
        _ => json.value().map(drop),
    })?;
    if images.is_empty() {
        return None;
    }
    let mut kept = Vec::with_capacity(body.len() - images.iter().map(Range::len).sum::<usize>());
    let mut from = 0;
    for image in images {
        kept.extend_from_slice(&body[from..image.start]);
        kept.extend_from_slice(b"{}");
        from = image.end;
    }
    kept.extend_from_slice(&body[from..]);
    Some(kept)
}

/// Passes a record, and adds its images to `images` if it is of a modified or removed item.
fn unused_images(json: &mut Scanner<'_>, images: &mut Vec<Range<usize>>) -> Option<()> {
    let before = images.len();
    let mut is_unused = false;
    json.object(&mut |json, name| match name {
        b"eventName" => {
            let event = json.value()?;
            is_unused = UNUSED.contains(&&json.text[event]);
            Some(())
        }
        b"dynamodb" => json.object(&mut |json, name| {
            let value = json.value()?;
            if matches!(name, b"NewImage" | b"OldImage") {
                images.push(value);
            }
            Some(())
        }),
        _ => json.value().map(drop),
    })?;
    if !is_unused {
        images.truncate(before);
    }
    Some(())
}

/// Finds the values of JSON text without decoding them. Methods return `None` if it is malformed.
struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

/// Passes the value of a member, given its name.
type Member<'f, 'a> = &'f mut dyn FnMut(&mut Scanner<'a>, &'a [u8]) -> Option<()>;

impl<'a> Scanner<'a> {
    /// Passes whitespace, and returns the byte after it without passing it.
    fn next(&mut self) -> Option<u8> {
        loop {
            let next = *self.text.get(self.at)?;
            if !next.is_ascii_whitespace() {
                return Some(next);
            }
            self.at += 1;
        }
    }

    /// Passes the next byte, which must be `byte`.
    fn pass(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then(|| self.at += 1)
    }

    /// Passes a comma and returns `true`, or passes `end` and returns `false`.
    fn passes_comma(&mut self, end: u8) -> Option<bool> {
        let next = self.next()?;
        self.at += 1;
        (next == b',' || next == end).then_some(next == b',')
    }

    /// Passes an object; `member` passes the value of each of its members.
    fn object(&mut self, member: Member<'_, 'a>) -> Option<()> {
        self.pass(b'{')?;
        if self.next()? == b'}' {
            return self.pass(b'}');
        }
        loop {
            let name = self.string()?;
            self.pass(b':')?;
            member(self, name)?;
            if !self.passes_comma(b'}')? {
                return Some(());
            }
        }
    }

    /// Passes an array; `element` passes each of its elements.
    fn array(&mut self, element: &mut dyn FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.pass(b'[')?;
        if self.next()? == b']' {
            return self.pass(b']');
        }
        loop {
            element(self)?;
            if !self.passes_comma(b']')? {
                return Some(());
            }
        }
    }

    /// Passes a value, and returns where it is.
    fn value(&mut self) -> Option<Range<usize>> {
        self.next()?;
        let start = self.at;
        let mut depth = 0_usize;
        loop {
            match self.next()? {
                b'"' => drop(self.string()?),
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                    continue;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.at += 1;
                }
                b',' | b':' if depth > 0 => {
                    self.at += 1;
                    continue;
                }
                b',' | b':' => return None,
                _ => {
                    let is_end = |byte: &u8| matches!(byte, b',' | b':' | b'}' | b']' | b'"');
                    self.at += self.text[self.at..].iter().position(is_end)?;
                }
            }
            if depth == 0 {
                return Some(start..self.at);
            }
        }
    }

    /// Passes a string, and returns it as it is written, without its quotes.
    fn string(&mut self) -> Option<&'a [u8]> {
        self.pass(b'"')?;
        let start = self.at;
        loop {
            let quote = end_candidate(self.text, self.at)?;
            self.at = quote + 1;
            let string = &self.text[start..quote];
            let backslashes = string.iter().rev().take_while(|byte| **byte == b'\\');
            if backslashes.count() % 2 == 0 {
                return Some(string);
            }
        }
    }
}

/// Returns the position of the first quote at `from` or later that is not preceded by exactly one
/// backslash.
///
/// Payloads are full of escaped quotes, so that it must not take time for each of them: the
/// compiler vectorizes the comparisons of a block.
fn end_candidate(text: &[u8], from: usize) -> Option<usize> {
    const BLOCK: usize = 64;
    let is_end = |at: usize, text: &[u8]| {
        (text[at] == b'"') & ((text[at - 1] != b'\\') | (text[at - 2] == b'\\'))
    };
    let mut at = from;
    while let Some(block) = text.get(at.checked_sub(2)?..at + BLOCK) {
        let block: &[u8; BLOCK + 2] = block.try_into().ok()?;
        if (2..block.len()).fold(false, |found, at| found | is_end(at, block)) {
            break;
        }
        at += BLOCK;
    }
    (at..text.len()).find(|&at| is_end(at, text))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn filtered(body: &str) -> Option<String> {
        without_images(body.as_bytes()).map(|body| String::from_utf8(body).unwrap())
    }

    #[test]
    fn images_of_modified_and_removed_items_are_removed() {
        let body = r#" {"NextShardIterator":"a]}","Records":[
            {"dynamodb":{"NewImage":{"a":{"S":"{\"b\":\"]}\\\"\\"}},"SizeBytes":10},"eventName":"MODIFY"},
            {"eventName":"INSERT","dynamodb":{"NewImage":{"a":{"S":"MODIFY"}},"SequenceNumber":"2"}} ,
            {"eventName":"REMOVE","dynamodb":{"OldImage":{"a":{"L":[{"N":"1"},{"NULL":true}]}},"SequenceNumber":"3"}}]} "#;
        let expected = r#" {"NextShardIterator":"a]}","Records":[
            {"dynamodb":{"NewImage":{},"SizeBytes":10},"eventName":"MODIFY"},
            {"eventName":"INSERT","dynamodb":{"NewImage":{"a":{"S":"MODIFY"}},"SequenceNumber":"2"}} ,
            {"eventName":"REMOVE","dynamodb":{"OldImage":{},"SequenceNumber":"3"}}]} "#;
        assert_eq!(filtered(body).as_deref(), Some(expected));
    }

    #[test]
    fn other_bodies_are_left_as_they_are() {
        let whole =
            r#"{"Records":[{"eventName":"MODIFY","dynamodb":{"NewImage":{"a":{"S":"\"b"}}}}]}"#;
        assert!(filtered(whole).is_some());
        for end in 0..whole.len() {
            assert_eq!(filtered(&whole[..end]), None, "{}", &whole[..end]);
        }
        for body in [
            r#"{"Records":[]}"#,
            r#"{"Records":[{"eventName":"INSERT","dynamodb":{"NewImage":{"MODIFY":{"S":"b"}}}}]}"#,
            r#"{"Records":[{"dynamodb":{"NewImage":{"a":{"S":"MODIFY"}}}}]}"#,
            r#"{"Records":[{"eventName":"MODIFY","dynamodb":{"NewImage":]}}]}"#,
            r#"{"Records":[{"eventName":"MODIFY","dynamodb":{"Keys":{}}}]}"#,
            r#"{"Records":{"eventName":"MODIFY"}}"#,
            r#"["MODIFY"]"#,
            r#""MODIFY""#,
        ] {
            assert_eq!(filtered(body), None, "{body}");
        }
    }

    /// What a scanner could take for the end of a string or of an object.
    const PARTS: [&str; 14] = [
        "\"",
        "\\",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"MODIFY\"",
        "\n",
        "\u{1}",
        "é",
        "a",
        "of more than 64 bytes, which is the length of the blocks that are compared",
    ];

    /// Names of members that have a meaning in some places.
    const NAMES: [&str; 5] = ["Records", "eventName", "dynamodb", "NewImage", "OldImage"];

    fn text() -> impl Strategy<Value = String> {
        let parts = vec(prop::sample::select(&PARTS[..]), 0..40);
        parts.prop_map(|parts| parts.concat())
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            text().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            Just(Value::Null),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map(name(), inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    fn name() -> impl Strategy<Value = String> {
        let known = prop::sample::select(&NAMES[..]);
        prop_oneof![known.prop_map(str::to_owned), text()]
    }

    /// Returns an object as text, in this order, and as a value.
    fn object(members: &[(&str, (String, Value))]) -> (String, Value) {
        let texts = members.iter().map(|(name, (text, _))| {
            let name = Value::from(*name);
            format!(" {name} : {text}\n")
        });
        let values = members.iter();
        let values = values.map(|(name, (_, value))| ((*name).to_owned(), value.clone()));
        let text = format!("{{{}}}", texts.collect::<Vec<_>>().join(","));
        (text, Value::Object(values.collect()))
    }

    /// Returns a record as text, and as the value that is expected of the filtered text.
    fn record() -> impl Strategy<Value = (String, Value)> {
        let event = prop::sample::select(&["INSERT", "MODIFY", "REMOVE", "{}"][..]);
        let other = (any::<bool>(), value());
        let parts = (event, value(), value(), other, 0..4_usize);
        parts.prop_map(|(event, new, old, (is_first, other), order)| {
            let is_unused = matches!(event, "MODIFY" | "REMOVE");
            let both = |value: Value| (value.to_string(), value);
            let image = |image: Value| {
                let kept = if is_unused { json!({}) } else { image.clone() };
                (image.to_string(), kept)
            };
            let mut data = vec![
                ("Keys", both(other.clone())),
                ("NewImage", image(new)),
                ("SequenceNumber", both(json!("12"))),
                ("OldImage", image(old)),
            ];
            data.rotate_left(order);
            let mut members = vec![
                ("eventName", both(json!(event))),
                ("userIdentity", both(other)),
                ("dynamodb", object(&data)),
            ];
            if is_first {
                members.reverse();
            }
            object(&members)
        })
    }

    proptest! {
        #[test]
        fn only_images_of_modified_and_removed_items_differ(
            records in vec(record(), 0..5),
            other in value(),
            is_first in any::<bool>(),
        ) {
            let (texts, expected): (Vec<_>, Vec<_>) = records.into_iter().unzip();
            let records = (format!("[{}]", texts.join(" , ")), Value::from(expected));
            let mut members = vec![("Records", records), ("NextShardIterator", (other.to_string(), other))];
            if is_first {
                members.reverse();
            }
            let (body, expected) = object(&members);
            let body = filtered(&body).unwrap_or(body);
            prop_assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), expected);
        }

        #[test]
        fn text_of_any_kind_is_scanned_without_a_panic(text in text()) {
            let _ = without_images(text.as_bytes());
            let _ = without_images(format!("{{\"Records\":[{{{text}\"MODIFY\"").as_bytes());
        }
    }
}
