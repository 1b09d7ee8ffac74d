//! Authorization of requests to the console.

use std::process::Command;

use reqwest::{Method, StatusCode, header};
use test_support::eventually;

use super::{Console, TOKEN, detail, failed, key};
use crate::support::{DEADLINE, RELAY, string};

/// Routes that show or change events.
const GUARDED: [(&str, &str); 9] = [
    ("GET", "/api/live"),
    ("GET", "/api/events?state=failed"),
    ("GET", "/api/search?q=a"),
    ("GET", "/api/event?aggregate_id=a&sequence=1"),
    ("POST", "/api/retry"),
    ("POST", "/api/discard"),
    ("GET", "/api/dead-letters"),
    ("POST", "/api/dead-letters/redrive"),
    ("POST", "/api/dead-letters/discard"),
];

/// Routes without data of events.
const OPEN: [&str; 16] = [
    "/",
    "/console.css",
    "/icon.svg",
    "/console.js",
    "/client.js",
    "/dom.js",
    "/charts.js",
    "/list.js",
    "/dead_letters.js",
    "/detail.js",
    "/json.js",
    "/location.js",
    "/overview.js",
    "/healthz",
    "/readyz",
    "/metrics",
];

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_the_token_are_rejected_and_change_nothing() {
    let console = Console::with_token().await;
    console.stage.put(failed("a", 1, "for the test")).await;
    let unknown = ("GET", "/api/nowhere");
    for (method, path) in GUARDED.into_iter().chain([unknown]) {
        let method: Method = method.parse().unwrap();
        for given in [None, Some("wrong"), Some(""), Some("s3cret")] {
            let mut request = console
                .http
                .request(method.clone(), console.relay.url(path))
                .json(&key("a", 1));
            if let Some(given) = given {
                request = request.bearer_auth(given);
            }
            let response = request.send().await.unwrap();
            assert_eq!(
                response.status(),
                StatusCode::UNAUTHORIZED,
                "{path} {given:?}"
            );
            assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
            let detail = detail(response).await;
            assert!(detail.contains("RELAY_ADMIN_TOKEN"), "{detail}");
            assert!(!detail.contains(TOKEN), "{detail}");
        }
    }
    let stored = console.stage.event("a", 1).await;
    assert_eq!(string(&stored, "status"), Some("FAILED"));

    for (method, path) in GUARDED {
        let request = console
            .http
            .request(method.parse().unwrap(), console.relay.url(path))
            .json(&key("b", 1));
        let response = console.authorized(request).send().await.unwrap();
        assert_ne!(response.status(), StatusCode::UNAUTHORIZED, "{path}");
    }
    assert!(!console.relay.log().contains(TOKEN));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_health_and_metrics_need_no_token() {
    let console = Console::with_token().await;
    for path in OPEN {
        // A relay is ready once it has located the stream.
        let open = eventually(DEADLINE, || async {
            let response = reqwest::get(console.relay.url(path)).await.unwrap();
            assert_eq!(
                response.headers()["x-content-type-options"],
                "nosniff",
                "{path}"
            );
            match response.status() {
                StatusCode::OK => Ok(()),
                status => Err(format!("{path}: {status}")),
            }
        });
        open.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_from_other_sites_are_rejected_and_change_nothing() {
    for console in [Console::open(&[]).await, Console::with_token().await] {
        console.stage.put(failed("a", 1, "for the test")).await;
        for (header, value) in [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("origin", "https://example.org"),
            ("origin", "null"),
        ] {
            for (method, path) in GUARDED {
                let request = console
                    .http
                    .request(method.parse().unwrap(), console.relay.url(path))
                    .header(header, value)
                    .json(&key("a", 1));
                let response = console.authorized(request).send().await.unwrap();
                assert_eq!(response.status(), StatusCode::FORBIDDEN, "{path} {value}");
                assert!(
                    !response
                        .headers()
                        .contains_key("access-control-allow-origin")
                );
            }
        }
        // The content types that an HTML form can send, without a preflight request.
        let body = key("a", 1).to_string();
        for kind in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
        ] {
            let request = console
                .http
                .post(console.relay.url("/api/retry"))
                .header(header::CONTENT_TYPE, kind)
                .body(body.clone());
            let response = console.authorized(request).send().await.unwrap();
            assert_eq!(
                response.status(),
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "{kind}"
            );
        }
        // The response to a preflight request allows no other origin.
        let request = console
            .http
            .request(Method::OPTIONS, console.relay.url("/api/retry"))
            .header("origin", "https://example.org")
            .header("access-control-request-method", "POST");
        let response = console.authorized(request).send().await.unwrap();
        assert!(
            !response
                .headers()
                .contains_key("access-control-allow-origin")
        );
        let stored = console.stage.event("a", 1).await;
        assert_eq!(string(&stored, "status"), Some("FAILED"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_not_of_the_console_is_rejected_with_and_without_a_token() {
    for console in [Console::open(&[]).await, Console::with_token().await] {
        for (method, path) in GUARDED {
            let request = console
                .http
                .request(method.parse().unwrap(), console.relay.url(path))
                .header(header::HOST, "evil.example:8081")
                .json(&key("a", 1));
            let response = console.authorized(request).send().await.unwrap();
            assert_eq!(response.status(), StatusCode::FORBIDDEN, "{path}");
            assert!(detail(response).await.contains("localhost"));
        }
        console.json("/api/events?state=failed").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_tokens_names_who_did_what_and_who_may_only_read() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        file.path(),
        "ann token-of-ann-0001\nbob token-of-bob-0001 read\n",
    )
    .unwrap();
    let path = file.path().to_str().unwrap();
    let console = Console::open(&[("RELAY_ADMIN_TOKEN_FILE", path)]).await;
    console.stage.put(failed("a", 1, "for the test")).await;
    let send = async |token: &str, method: Method, path: &str| {
        let request = console.http.request(method, console.relay.url(path));
        let request = request.bearer_auth(token).json(&key("a", 1));
        request.send().await.unwrap()
    };
    let events = "/api/events?state=failed";
    for (token, status) in [
        ("token-of-ann-0001", 200),
        ("token-of-bob-0001", 200),
        ("ann", 401),
    ] {
        let response = send(token, Method::GET, events).await;
        assert_eq!(response.status(), status, "{token}");
    }
    let actions = GUARDED.iter().filter(|(method, _)| *method == "POST");
    for (_, path) in actions {
        let response = send("token-of-bob-0001", Method::POST, path).await;
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert!(detail(response).await.contains("reading only"));
    }
    let stored = console.stage.event("a", 1).await;
    assert_eq!(string(&stored, "status"), Some("FAILED"));

    let response = send("token-of-ann-0001", Method::POST, "/api/retry").await;
    assert_eq!(response.status(), StatusCode::OK);
    let logged = eventually(DEADLINE, || async {
        let log = console.relay.log();
        let line = log.lines().find(|line| line.contains("event retried by"));
        line.map(str::to_owned).ok_or(log)
    });
    let line = logged.await.unwrap();
    assert!(line.contains("\"ann\""), "{line}");
    assert!(!console.relay.log().contains("token-of-"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_response_has_the_security_headers() {
    let console = Console::with_token().await;
    for path in [
        "/",
        "/console.js",
        "/api/events?state=failed",
        "/api/nowhere",
    ] {
        for response in [
            console.get(path).await,
            reqwest::get(console.relay.url(path)).await.unwrap(),
        ] {
            let header = |name: &str| response.headers()[name].to_str().unwrap();
            let policy = header("content-security-policy");
            for directive in [
                "default-src 'none'",
                "script-src 'self'",
                "frame-ancestors 'none'",
                "form-action 'none'",
                "base-uri 'none'",
                "require-trusted-types-for 'script'",
            ] {
                assert!(policy.contains(directive), "{path}: {policy}");
            }
            assert!(!policy.contains("unsafe"), "{path}: {policy}");
            assert_eq!(header("x-content-type-options"), "nosniff");
            assert_eq!(header("referrer-policy"), "no-referrer");
            assert_eq!(header("cache-control"), "no-store");
            assert_eq!(header("cross-origin-resource-policy"), "same-origin");
        }
    }
    let page = console.get("/").await.text().await.unwrap();
    for inline in ["<style", " style=", " onclick=", "javascript:", "<script>"] {
        assert!(!page.contains(inline), "{inline}");
    }
}

#[test]
fn listening_beyond_loopback_requires_a_token() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:8081"] {
        let output = Command::new(RELAY)
            .env("RELAY_ADMIN_LISTEN", address)
            .env("AWS_REGION", "us-east-1")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(64), "{address}");
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains("RELAY_ADMIN_TOKEN"), "{message}");
    }
}

#[test]
fn listening_beyond_loopback_requires_long_tokens() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "0123456789abcdef\nbob 0123456789abcde read").unwrap();
    let path = file.path().to_str().unwrap();
    for (name, value, expected) in [
        (
            "RELAY_ADMIN_TOKEN",
            "0123456789abcde",
            "at least 16 characters",
        ),
        ("RELAY_ADMIN_TOKEN_FILE", path, "at least 16 characters"),
        ("RELAY_ADMIN_TOKEN_FILE", "/dev/null", "has no token"),
        ("RELAY_ADMIN_TOKEN_FILE", "/nonexistent", "cannot be opened"),
    ] {
        let output = Command::new(RELAY)
            .env("RELAY_ADMIN_LISTEN", "0.0.0.0:0")
            .env("AWS_REGION", "us-east-1")
            .env(name, value)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(64), "{name}={value}");
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains(expected), "{message}");
        assert!(!message.contains("0123456789"), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn an_invalid_token_is_rejected_and_no_token_is_printed() {
    for token in ["", "two words", "naïve"] {
        let output = Command::new(RELAY)
            .env("RELAY_ADMIN_TOKEN", token)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(64), "{token:?}");
    }
    let help = Command::new(RELAY)
        .arg("--help")
        .env("RELAY_ADMIN_TOKEN", TOKEN)
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("RELAY_ADMIN_TOKEN"), "{help}");
    assert!(!help.contains(TOKEN), "{help}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_the_relay_listens_on_any_address_for_the_configured_hosts() {
    let stage = crate::support::Stage::new().await;
    let environment = [
        ("RELAY_ADMIN_LISTEN", "0.0.0.0:0"),
        ("RELAY_ADMIN_TOKEN", TOKEN),
        ("RELAY_ADMIN_HOSTS", "relay.internal"),
    ];
    let console = Console::on(stage, &environment, Some(TOKEN)).await;
    let url = format!(
        "http://127.0.0.1:{}/api/events?state=failed",
        console.relay.address().port()
    );
    for (host, status) in [
        ("relay.internal", StatusCode::OK),
        ("192.0.2.7:8081", StatusCode::OK),
        ("evil.example", StatusCode::FORBIDDEN),
    ] {
        let request = console.http.get(&url).header(header::HOST, host);
        let response = console.authorized(request).send().await.unwrap();
        assert_eq!(response.status(), status, "{host}");
    }
}
