//! Authorization of requests to the console.
//!
//! With a token, every request to `/api/` must carry it in `Authorization`. A browser adds no
//! credentials by itself, such as a cookie, so another site cannot act in its user's name.
//!
//! Without a token, the port is bound to the loopback address, and every local client may use the
//! console, except pages of other sites in a local browser:
//! - The origin that a browser reports must be this console (cross-site request forgery).
//! - Actions must be JSON, which an HTML form cannot send.
//! - The requested host must be a loopback name. A name that an attacker's DNS resolves to this
//!   address is not (DNS rebinding).

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

/// Permits the console's own files and requests only. Forbids scripts and styles within the page,
/// and turning text into markup (`trusted-types 'none'`).
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// Headers of every response of the console.
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

/// Configuration of the authorization.
#[derive(Debug)]
pub(super) struct Access {
    pub(super) token: Option<AdminToken>,
}

/// Passes an authorized request on, and rejects any other with the reason.
pub(super) async fn authorize(
    State(access): State<Arc<Access>>,
    request: Request,
    next: Next,
) -> Response {
    match access.check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Adds the security headers to every response, also to rejections.
pub(super) async fn add_security_headers(request: Request, next: Next) -> Response {
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
                "requests from other sites are rejected: open the console at its own address",
            ));
        }
        match &self.token {
            Some(token) => match bearer_token(headers) {
                Some(given) if token.matches(given) => Ok(()),
                given => Err(Problem::new(
                    StatusCode::UNAUTHORIZED,
                    match given {
                        None => "this relay requires a token: send its RELAY_ADMIN_TOKEN as a bearer token",
                        Some(_) => "the token is wrong: use the RELAY_ADMIN_TOKEN of this relay",
                    },
                )
                .with_header(WWW_AUTHENTICATE, "Bearer")),
            },
            None if has_loopback_host(headers) => Ok(()),
            None => Err(Problem::new(
                StatusCode::FORBIDDEN,
                "without RELAY_ADMIN_TOKEN this relay accepts requests to localhost only: use that name, or configure a token",
            )),
        }
    }
}

/// Returns `true` if a browser reports that a page of another site caused the request. Programs
/// report nothing; to addresses without TLS, browsers send `Origin` only. If a header is repeated,
/// each of its values must be this console.
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

fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

/// Returns `true` if the header `Host` is `localhost` or a loopback address.
fn has_loopback_host(headers: &HeaderMap) -> bool {
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
        let rejection = access.check(&headers(pairs)).err();
        rejection.map(|problem| problem.status().as_u16())
    }

    #[test]
    fn without_a_token_only_loopback_hosts_are_accepted() {
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
    fn cross_site_requests_are_rejected_with_and_without_a_token() {
        let own = [("host", "localhost:8081"), ("authorization", "Bearer t")];
        for token in [None, Some("t")] {
            for (more, expected) in [
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
                assert_eq!(status(token, &headers), expected, "{more:?}");
            }
        }
    }

    #[test]
    fn each_value_of_a_repeated_header_is_checked() {
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
    fn with_a_token_no_other_credential_is_accepted() {
        let with = |authorization| status(Some("t0"), &[("authorization", authorization)]);
        assert_eq!(with("Bearer t0"), None);
        assert_eq!(with("bearer t0"), None);
        for wrong in ["Bearer t", "Bearer  t0", "t0", "Basic t0", "Bearer", ""] {
            assert_eq!(with(wrong), Some(401), "{wrong:?}");
        }
        assert_eq!(status(Some("t0"), &[("host", "localhost")]), Some(401));
    }
}
