//! The credentials of a request.

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName};

use crate::headers::single_value;

/// Header with an API key.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Credentials that a request presents; not verified yet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Credentials<'a> {
    None,
    ApiKey(&'a str),
    Bearer(&'a str),
    /// Credentials that are not as required, with the reason.
    Malformed(&'static str),
}

impl<'a> Credentials<'a> {
    pub(super) fn of(headers: &'a HeaderMap) -> Self {
        let key = single_value(headers, &API_KEY);
        let authorization = single_value(headers, &AUTHORIZATION);
        match (key, authorization) {
            (None, None) => Self::None,
            (Some(_), Some(_)) => {
                Self::Malformed("Send either X-API-Key or Authorization, not both.")
            }
            (Some(Ok(key)), None) => Self::ApiKey(key),
            (Some(Err(())), None) => Self::Malformed("X-API-Key must be given once, in ASCII."),
            (None, Some(Ok(value))) => match value.split_once(' ') {
                Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                    Self::Bearer(token.trim())
                }
                _ => Self::Malformed("Authorization must be `Bearer` and a token."),
            },
            (None, Some(Err(()))) => Self::Malformed("Authorization must be given once, in ASCII."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_credential_is_read() {
        let parse = |pairs: &[(HeaderName, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(name, value.parse().unwrap());
            }
            match Credentials::of(&headers) {
                Credentials::None => "none".to_owned(),
                Credentials::ApiKey(key) => format!("key {key}"),
                Credentials::Bearer(token) => format!("bearer {token}"),
                Credentials::Malformed(_) => "malformed".to_owned(),
            }
        };
        assert_eq!(parse(&[]), "none");
        assert_eq!(parse(&[(API_KEY, "k")]), "key k");
        for value in ["Bearer t", "bearer t", "BEARER  t"] {
            assert_eq!(parse(&[(AUTHORIZATION, value)]), "bearer t", "{value}");
        }
        for malformed in [
            &[(AUTHORIZATION, "Basic dTpw")][..],
            &[(AUTHORIZATION, "Bearer")],
            &[(AUTHORIZATION, "")],
            &[(AUTHORIZATION, "Bearer a"), (AUTHORIZATION, "Bearer b")],
            &[(API_KEY, "a"), (API_KEY, "a")],
            &[(API_KEY, "a"), (AUTHORIZATION, "Bearer b")],
            &[(API_KEY, "\u{e9}")],
        ] {
            assert_eq!(parse(malformed), "malformed", "{malformed:?}");
        }
    }
}
