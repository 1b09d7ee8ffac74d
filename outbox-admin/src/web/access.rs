//! Authorization of requests to the console.
//!
//! With tokens, every request to `/api/` must carry one in `Authorization`. A browser adds no
//! credentials by itself, such as a cookie, so another site cannot act in its user's name. Without
//! tokens, the port is bound to the loopback address, and every local client may use the console.
//!
//! Pages of other sites in a browser are kept out in both cases:
//! - The origin that a browser reports must be this console (cross-site request forgery).
//! - Actions must be JSON, which an HTML form cannot send.
//! - The requested host must be one of this console ([`AllowedHosts`]). A name that an attacker's
//!   DNS resolves to this address is not (DNS rebinding).

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderName, ORIGIN,
    REFERRER_POLICY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::admin_tokens::{AdminTokens, Permission};
use super::allowed_hosts::AllowedHosts;
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
    pub(super) tokens: Option<AdminTokens>,
    pub(super) hosts: AllowedHosts,
}

/// Sender of an authorized request; an extension of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Actor {
    /// Name in the log.
    pub(super) name: Arc<str>,
    pub(super) is_read_only: bool,
}

/// Passes an authorized request on, and rejects any other with the reason.
pub(super) async fn authorize(
    State(access): State<Arc<Access>>,
    mut request: Request,
    next: Next,
) -> Response {
    match access.check(request.method(), request.headers()) {
        Ok(actor) => {
            request.extensions_mut().insert(actor);
            next.run(request).await
        }
        Err(problem) => {
            tracing::info!(
                method = %request.method(),
                path = request.uri().path(),
                reason = problem.detail(),
                "a request to the console was rejected"
            );
            problem.into_response()
        }
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
    fn check(&self, method: &Method, headers: &HeaderMap) -> Result<Actor, Problem> {
        if is_cross_site(headers) {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "requests from other sites are rejected: open the console at its own address",
            ));
        }
        if !self.hosts.allow(headers, self.tokens.is_some()) {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                match self.tokens {
                    Some(_) => {
                        "this host is not one of the console: use localhost or an address, or add the name to RELAY_ADMIN_HOSTS"
                    }
                    None => {
                        "without RELAY_ADMIN_TOKEN this relay accepts requests to localhost only: use that name, add the name to RELAY_ADMIN_HOSTS, or configure a token"
                    }
                },
            ));
        }
        let Some(tokens) = &self.tokens else {
            return Ok(Actor {
                name: "local".into(),
                is_read_only: false,
            });
        };
        let given = bearer_token(headers);
        let Some(token) = given.and_then(|given| tokens.find(given)) else {
            return Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                match given {
                    None => "this relay requires a token: send its RELAY_ADMIN_TOKEN, or one of RELAY_ADMIN_TOKEN_FILE, as a bearer token",
                    Some(_) => "the token is wrong: use the RELAY_ADMIN_TOKEN of this relay, or one of its RELAY_ADMIN_TOKEN_FILE",
                },
            )
            .with_header(WWW_AUTHENTICATE, "Bearer"));
        };
        let is_read_only = token.permission() == Permission::Read;
        if is_read_only && !method.is_safe() {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "this token permits reading only: use one that permits changes",
            ));
        }
        Ok(Actor {
            name: token.name().into(),
            is_read_only,
        })
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

    fn check(
        tokens: Option<&str>,
        method: &Method,
        pairs: &[(&'static str, &str)],
    ) -> Result<Actor, u16> {
        let access = Access {
            tokens: tokens.map(|content| AdminTokens::parse_file(content).unwrap()),
            hosts: "relay.internal".parse().unwrap(),
        };
        let checked = access.check(method, &headers(pairs));
        checked.map_err(|problem| problem.status().as_u16())
    }

    fn status(tokens: Option<&str>, pairs: &[(&'static str, &str)]) -> Option<u16> {
        check(tokens, &Method::GET, pairs).err()
    }

    #[test]
    fn a_host_that_is_not_of_the_console_is_rejected_with_and_without_a_token() {
        let authorization = ("authorization", "Bearer t0");
        for tokens in [None, Some("t0")] {
            for host in ["localhost:8081", "127.0.0.1", "relay.internal:8081"] {
                let headers = [("host", host), authorization];
                assert_eq!(status(tokens, &headers), None, "{host}");
            }
            for host in ["evil.example", "evil.example:8081", "a b"] {
                let headers = [("host", host), authorization];
                assert_eq!(status(tokens, &headers), Some(403), "{host}");
            }
            assert_eq!(status(tokens, &[authorization]), Some(403));
        }
    }

    #[test]
    fn a_token_to_read_permits_no_change() {
        let tokens = Some("ann t0\nbob t1 read");
        let with = |method: &Method, authorization| {
            let headers = [("host", "localhost"), ("authorization", authorization)];
            check(tokens, method, &headers)
                .map(|actor| (actor.name.to_string(), actor.is_read_only))
        };
        assert_eq!(
            with(&Method::POST, "Bearer t0"),
            Ok(("ann".to_owned(), false))
        );
        assert_eq!(
            with(&Method::GET, "Bearer t1"),
            Ok(("bob".to_owned(), true))
        );
        for method in [Method::POST, Method::PUT, Method::DELETE] {
            assert_eq!(with(&method, "Bearer t1"), Err(403), "{method}");
        }
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
        let host = ("host", "localhost");
        let with = |authorization| status(Some("t0"), &[host, ("authorization", authorization)]);
        assert_eq!(with("Bearer t0"), None);
        assert_eq!(with("bearer t0"), None);
        for wrong in ["Bearer t", "Bearer  t0", "t0", "Basic t0", "Bearer", ""] {
            assert_eq!(with(wrong), Some(401), "{wrong:?}");
        }
        assert_eq!(status(Some("t0"), &[("host", "localhost")]), Some(401));
    }
}
