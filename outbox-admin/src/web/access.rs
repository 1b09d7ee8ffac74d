//! Who may use the console.
//!
//! With a token every request to `/api/` must carry it in `Authorization`.
//! Nothing a browser adds by itself, such as a cookie, opens anything, so no
//! other site can act in its user's name. Without a token the port is bound to
//! loopback and whoever reaches it may use it, except pages of other sites in
//! a local browser: what a browser says of a request's origin must be this
//! console, actions must be JSON, which no form can send, and the host asked
//! for must be a loopback one, which a name that an attacker's DNS points here
//! is not.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderName, ORIGIN,
    REFERRER_POLICY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::admin_token::AdminToken;
use super::problem::Problem;

/// Own files and own requests, nothing else; no script or style within the
/// page, and no way to make markup of text (`trusted-types 'none'`).
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// Sent with every answer of the console.
const HEADERS: [(HeaderName, &str); 6] = [
    (CONTENT_SECURITY_POLICY, CONTENT_POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
];

/// What a request is judged by.
#[derive(Debug)]
pub(super) struct Access {
    pub(super) token: Option<AdminToken>,
}

/// Lets a request for data or an action through, or says why not.
pub(super) async fn guard(
    State(access): State<Arc<Access>>,
    request: Request,
    next: Next,
) -> Response {
    match access.check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Adds the headers that every answer has, refusals too.
pub(super) async fn protect(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in HEADERS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

impl Access {
    fn check(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if is_cross_site(headers) {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "requests from other sites are refused",
            ));
        }
        match &self.token {
            Some(token) => match bearer(headers) {
                Some(given) if token.is(given) => Ok(()),
                given => Err(Problem::new(
                    StatusCode::UNAUTHORIZED,
                    match given {
                        None => "the token of this relay (RELAY_ADMIN_TOKEN) is needed",
                        Some(_) => "this is not the token of this relay (RELAY_ADMIN_TOKEN)",
                    },
                )
                .with(WWW_AUTHENTICATE, "Bearer")),
            },
            None if names_loopback(headers) => Ok(()),
            None => Err(Problem::new(
                StatusCode::FORBIDDEN,
                "without a token (RELAY_ADMIN_TOKEN) this relay answers only to localhost",
            )),
        }
    }
}

/// Whether a browser says that another site is behind the request. Programs
/// say nothing; to addresses without TLS browsers send `Origin` only. Of a
/// header that comes twice, each must be as it should.
fn is_cross_site(headers: &HeaderMap) -> bool {
    let is_own = |site: &HeaderValue| site == "same-origin" || site == "none";
    let mut sites = headers.get_all("sec-fetch-site").iter().peekable();
    if sites.peek().is_some() {
        return !sites.all(is_own);
    }
    let is_host = |origin: &HeaderValue| {
        let origin = origin.as_bytes();
        let from = origin
            .strip_prefix(b"http://")
            .or_else(|| origin.strip_prefix(b"https://"));
        from.is_some() && from == headers.get(HOST).map(HeaderValue::as_bytes)
    };
    !headers.get_all(ORIGIN).iter().all(is_host)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

fn names_loopback(headers: &HeaderMap) -> bool {
    let authority = headers
        .get(HOST)
        .and_then(|host| Authority::try_from(host.as_bytes()).ok());
    authority.is_some_and(|authority| {
        let host = authority.host();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost")
            || address
                .parse::<IpAddr>()
                .is_ok_and(|address| address.to_canonical().is_loopback())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        headers
    }

    fn status(token: Option<&str>, pairs: &[(&'static str, &str)]) -> Option<u16> {
        let access = Access {
            token: token.map(|token| token.parse().unwrap()),
        };
        let answer = access.check(&headers(pairs)).err();
        answer.map(|problem| problem.status().as_u16())
    }

    #[test]
    fn without_a_token_only_loopback_names_are_answered() {
        for host in [
            "localhost:8081",
            "LOCALHOST",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:8081",
        ] {
            assert_eq!(status(None, &[("host", host)]), None, "{host}");
        }
        for host in [
            "example.org:8081",
            "10.0.0.1",
            "localhost.example.org",
            "[::2]",
            "a b",
        ] {
            assert_eq!(status(None, &[("host", host)]), Some(403), "{host}");
        }
        assert_eq!(status(None, &[]), Some(403));
    }

    #[test]
    fn what_a_browser_sends_for_another_site_is_refused_with_the_token_too() {
        let own = [("host", "localhost:8081"), ("authorization", "Bearer t")];
        for token in [None, Some("t")] {
            for (more, refused) in [
                (("sec-fetch-site", "same-origin"), None),
                (("sec-fetch-site", "none"), None),
                (("sec-fetch-site", "same-site"), Some(403)),
                (("sec-fetch-site", "cross-site"), Some(403)),
                (("origin", "http://localhost:8081"), None),
                (("origin", "https://localhost:8081"), None),
                (("origin", "http://localhost:9000"), Some(403)),
                (("origin", "null"), Some(403)),
            ] {
                let headers = [own[0], own[1], more];
                assert_eq!(status(token, &headers), refused, "{more:?}");
            }
        }
    }

    #[test]
    fn of_a_header_that_comes_twice_each_counts() {
        let host = ("host", "localhost:8081");
        for (name, own, other) in [
            ("sec-fetch-site", "same-origin", "cross-site"),
            ("origin", "http://localhost:8081", "http://example.org"),
        ] {
            let twice = |a, b| status(None, &[host, (name, a), (name, b)]);
            assert_eq!(twice(own, own), None, "{name}");
            assert_eq!(twice(own, other), Some(403), "{name}");
            assert_eq!(twice(other, own), Some(403), "{name}");
        }
    }

    #[test]
    fn with_a_token_nothing_else_opens() {
        let with = |authorization| status(Some("t0"), &[("authorization", authorization)]);
        assert_eq!(with("Bearer t0"), None);
        assert_eq!(with("bearer t0"), None);
        for wrong in ["Bearer t", "Bearer  t0", "t0", "Basic t0", "Bearer", ""] {
            assert_eq!(with(wrong), Some(401), "{wrong:?}");
        }
        assert_eq!(status(Some("t0"), &[("host", "localhost")]), Some(401));
    }
}
