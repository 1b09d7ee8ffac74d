//! JSON as it was sent. Unlike a map, [`Json`] keeps repeated members, of which one parser would
//! use the first and another the last.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

/// A JSON value. The parser bounds its depth (128), and the limit of the body its size.
#[derive(Debug, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool,
    Number(Number),
    String(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Parses one value. The error states where the text is not JSON.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(text).map_err(|error| error.to_string())
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Json;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_unit<E: Error>(self) -> Result<Json, E> {
                Ok(Json::Null)
            }

            fn visit_bool<E: Error>(self, _: bool) -> Result<Json, E> {
                Ok(Json::Bool)
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Json, E> {
                Ok(Json::Number(number.into()))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Json, E> {
                Ok(Json::Number(number.into()))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Json, E> {
                Ok(Number::from_f64(number).map_or(Json::Null, Json::Number))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Json, E> {
                Ok(Json::String(text.to_owned()))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<Json, E> {
                Ok(Json::String(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
                let mut array = Vec::new();
                while let Some(item) = items.next_element()? {
                    array.push(item);
                }
                Ok(Json::Array(array))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
                let mut object = Vec::new();
                while let Some(member) = members.next_entry()? {
                    object.push(member);
                }
                Ok(Json::Object(object))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_member_is_kept_twice() {
        let Ok(Json::Object(members)) = Json::parse(br#"{"a":1,"a":null}"#) else {
            panic!("an object");
        };
        assert_eq!(members.len(), 2);
    }

    #[test]
    fn a_parse_error_states_its_position() {
        for wrong in [
            &b""[..],
            b"{",
            b"{} {}",
            b"\xff",
            b"\"\xff\"",
            b"\"\0\"",
            br#""\ud800""#,
            br#""\udc00\ud800""#,
            b"\xef\xbb\xbf{}",
            b"{'a':1}",
            b"NaN",
            b"01",
            b"1e999",
        ] {
            let reason = Json::parse(wrong).unwrap_err();
            assert!(reason.contains("line 1 column"), "{reason}");
        }
        assert!(Json::parse("[".repeat(10_000).as_bytes()).is_err());
    }
}
