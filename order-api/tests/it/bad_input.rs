//! Invalid requests and their responses.

use std::time::Instant;

use reqwest::Method;
use serde_json::json;

use crate::support::{World, an_order, raw};

#[tokio::test]
async fn a_body_that_is_not_json_is_400() {
    let world = World::start().await;
    for body in [
        &b""[..],
        b"hello",
        b"{\"customer_id\":",
        b"{} trailing",
        b"\xff\xfe{}",
        // A raw NUL and unpaired surrogates are not valid in JSON strings.
        b"{\"customer_id\":\"\0\"}",
        br#"{"customer_id":"\ud800","currency":"EUR","items":[]}"#,
        br#"{"customer_id":"\udc00\ud800","currency":"EUR","items":[]}"#,
        "[".repeat(60_000).as_bytes(),
    ] {
        let answer = world.post_text(&[], body).await;
        answer.assert_problem(400, "not-json");
    }
}

#[tokio::test]
async fn all_invalid_fields_are_reported_at_once() {
    let world = World::start().await;
    let answer = world
        .post(&json!({
            "customer_id": "",
            "items": [
                {"sku": "A", "quantity": "2", "unit_price_minor": 1, "colour": "red"},
                {"sku": "A", "quantity": 1, "unit_price_minor": -1},
            ],
            "coupon": "SAVE10",
        }))
        .await;
    let pointers: Vec<_> = answer.offending().into_iter().map(|(at, _)| at).collect();
    assert_eq!(
        pointers,
        [
            "/coupon",
            "/currency",
            "/customer_id",
            "/items/0/colour",
            "/items/0/quantity",
            "/items/1/sku",
            "/items/1/unit_price_minor",
        ]
    );
}

#[tokio::test]
async fn a_body_of_another_content_type_is_415() {
    let world = World::start().await;
    let body = an_order().to_string();
    for headers in [
        &[][..],
        &[("content-type", "text/plain")],
        &[("content-type", "application/json; charset=latin1")],
        &[("content-type", "application/x-www-form-urlencoded")],
    ] {
        let body = body.clone().into_bytes();
        let answer = world.send(Method::POST, "/orders", headers, body).await;
        answer.assert_problem(415, "unsupported-media-type");
    }
    let gzip = [("content-encoding", "gzip")];
    let answer = world.post_text(&gzip, body).await;
    answer.assert_problem(415, "unsupported-content-encoding");
    assert_eq!(answer.header("accept-encoding"), "identity");
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_however_it_is_sent() {
    let world = World::start().await;
    let huge = vec![b' '; 10 * 1024 * 1024];
    let answer = world.post_text(&[], huge.clone()).await;
    answer.assert_problem(413, "body-too-large");

    let head = "POST /orders HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         content-type: application/json\r\n";
    let mut chunked = format!("{head}transfer-encoding: chunked\r\n\r\n").into_bytes();
    for chunk in huge.chunks(1024 * 1024) {
        chunked.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        chunked.extend_from_slice(chunk);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let answer = raw(&world, &chunked).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("body-too-large"), "{answer}");

    // A client that expects `100 Continue` gets the response before it sends the body.
    let expecting = format!("{head}content-length: 10485760\r\nexpect: 100-continue\r\n\r\n");
    let started = Instant::now();
    let answer = raw(&world, expecting.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(started.elapsed().as_millis() < 1_000);
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_408() {
    let world = World::with(&[("ORDER_API_REQUEST_TIMEOUT", "300ms")]).await;
    let request = b"POST /orders HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
        content-length: 100\r\n\r\n{";
    let answer = raw(&world, request).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("body-too-slow"), "{answer}");
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems() {
    let world = World::start().await;
    for path in ["/", "/orders/", "/nope", "/orders/1/items", "/docs/nope"] {
        let answer = world.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
    for (method, path, allowed) in [
        (Method::DELETE, "/orders", "POST"),
        (Method::GET, "/orders", "POST"),
        (Method::PUT, "/orders/1", "GET,HEAD"),
        (Method::POST, "/healthz", "GET,HEAD"),
        (Method::POST, "/openapi.json", "GET,HEAD"),
    ] {
        let answer = world.send(method, path, &[], Vec::new()).await;
        answer.assert_problem(405, "method-not-allowed");
        assert_eq!(answer.header("allow"), allowed, "{path}");
    }
}

#[tokio::test]
async fn a_malformed_order_id_is_404() {
    let world = World::start().await;
    for id in [
        "0197f2f0-7b1c-7c3e-9d2a-3f1b5c7d9e0f",
        "0197F2F0-7B1C-7C3E-9D2A-3F1B5C7D9E0F",
        "1",
        "%00",
        "%ff",
        "%2e%2e%2f",
        &"x".repeat(5_000),
    ] {
        let answer = world.get(&format!("/orders/{id}")).await;
        answer.assert_problem(404, "no-such-order");
    }
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let world = World::start().await;
    let location = world.post(&an_order()).await.header("location").to_owned();
    let get = world.get(&location).await;
    let head = world.send(Method::HEAD, &location, &[], Vec::new()).await;
    assert_eq!((head.status, head.body.as_str()), (get.status, ""));
    assert_eq!(head.header("content-length"), get.header("content-length"));
}
