//! Who may look and act.

use std::process::Command;

use reqwest::{Method, StatusCode, header};
use test_support::eventually;

use super::{Console, TOKEN, detail, failed, name};
use crate::support::{DEADLINE, RELAY, string};

/// Whatever shows or changes something.
const GUARDED: [(&str, &str); 6] = [
    ("GET", "/api/live"),
    ("GET", "/api/events?state=failed"),
    ("GET", "/api/search?q=a"),
    ("GET", "/api/event?aggregate_id=a&sequence=1"),
    ("POST", "/api/retry"),
    ("POST", "/api/discard"),
];

/// What says nothing of any event.
const OPEN: [&str; 13] = [
    "/",
    "/console.css",
    "/icon.svg",
    "/console.js",
    "/client.js",
    "/dom.js",
    "/charts.js",
    "/list.js",
    "/detail.js",
    "/json.js",
    "/healthz",
    "/readyz",
    "/metrics",
];

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_nothing_is_shown_or_done_without_it() {
    let console = Console::with_token().await;
    console.stage.put(failed("a", 1, "for the test")).await;
    let unknown = ("GET", "/api/nowhere");
    for (method, path) in GUARDED.into_iter().chain([unknown]) {
        let method: Method = method.parse().unwrap();
        for given in [None, Some("wrong"), Some(""), Some("s3cret")] {
            let mut request = console
                .http
                .request(method.clone(), console.relay.url(path))
                .json(&name("a", 1));
            if let Some(given) = given {
                request = request.bearer_auth(given);
            }
            let answer = request.send().await.unwrap();
            assert_eq!(
                answer.status(),
                StatusCode::UNAUTHORIZED,
                "{path} {given:?}"
            );
            assert_eq!(answer.headers()[header::WWW_AUTHENTICATE], "Bearer");
            let detail = detail(answer).await;
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
            .json(&name("b", 1));
        let answer = console.authorized(request).send().await.unwrap();
        assert_ne!(answer.status(), StatusCode::UNAUTHORIZED, "{path}");
    }
    assert!(!console.relay.log().contains(TOKEN));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_and_health_are_open_and_say_nothing_of_events() {
    let console = Console::with_token().await;
    for path in OPEN {
        // A relay is ready only once it has found the stream.
        let open = eventually(DEADLINE, || async {
            let answer = reqwest::get(console.relay.url(path)).await.unwrap();
            assert_eq!(
                answer.headers()["x-content-type-options"],
                "nosniff",
                "{path}"
            );
            match answer.status() {
                StatusCode::OK => Ok(()),
                status => Err(format!("{path}: {status}")),
            }
        });
        open.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_other_sites_are_refused_and_change_nothing() {
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
                    .json(&name("a", 1));
                let answer = console.authorized(request).send().await.unwrap();
                assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{path} {value}");
                assert!(!answer.headers().contains_key("access-control-allow-origin"));
            }
        }
        // What a form can send without asking first.
        let body = name("a", 1).to_string();
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
            let answer = console.authorized(request).send().await.unwrap();
            assert_eq!(
                answer.status(),
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "{kind}"
            );
        }
        // A preflight allows nothing.
        let request = console
            .http
            .request(Method::OPTIONS, console.relay.url("/api/retry"))
            .header("origin", "https://example.org")
            .header("access-control-request-method", "POST");
        let answer = console.authorized(request).send().await.unwrap();
        assert!(!answer.headers().contains_key("access-control-allow-origin"));
        let stored = console.stage.event("a", 1).await;
        assert_eq!(string(&stored, "status"), Some("FAILED"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_a_name_that_points_here_is_refused() {
    let console = Console::open(&[]).await;
    for (method, path) in GUARDED {
        let answer = console
            .http
            .request(method.parse().unwrap(), console.relay.url(path))
            .header(header::HOST, "attacker.example:8081")
            .json(&name("a", 1))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{path}");
        assert!(detail(answer).await.contains("localhost"));
    }
    console.json("/api/events?state=failed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_forbids_what_the_page_does_not_need() {
    let console = Console::with_token().await;
    for path in [
        "/",
        "/console.js",
        "/api/events?state=failed",
        "/api/nowhere",
    ] {
        for answer in [
            console.get(path).await,
            reqwest::get(console.relay.url(path)).await.unwrap(),
        ] {
            let header = |name: &str| answer.headers()[name].to_str().unwrap();
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
fn an_address_that_others_reach_needs_a_token() {
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
fn a_token_that_no_header_carries_is_refused_and_none_is_ever_printed() {
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
async fn with_a_token_the_relay_listens_where_others_reach_it() {
    let stage = crate::support::Stage::new().await;
    let environment = [
        ("RELAY_ADMIN_LISTEN", "0.0.0.0:0"),
        ("RELAY_ADMIN_TOKEN", TOKEN),
    ];
    let console = Console::on(stage, &environment, Some(TOKEN)).await;
    // Whatever name leads here: the token is what counts.
    let url = format!(
        "http://127.0.0.1:{}/api/events?state=failed",
        console.relay.address().port()
    );
    let request = console.http.get(url).header(header::HOST, "relay.internal");
    let answer = console.authorized(request).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}
