//! `up`: its output, its end, and its behaviour after failures.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use test_support::{PATIENCE, eventually};
use tokio::net::TcpListener;

use crate::support::{self, Up, get_order, item, post_order, runs};

/// Time limit stated in the README.
const PROCESSED_WITHIN: Duration = Duration::from_secs(2);

/// Posts an order, waits until it is PROCESSED and returns the time that took.
async fn place_order(up: &Up, http: &reqwest::Client, n: usize) -> Duration {
    let api = up.url("order-api");
    let order = post_order(http, &api, n).await;
    let posted = Instant::now();
    let processed = eventually(PATIENCE, || async {
        match get_order(http, &api, &order.id).await {
            order if order["status"] == "PROCESSED" => Ok(()),
            order => Err(format!("{order}\n{}", up.log())),
        }
    });
    processed.await.unwrap();
    posted.elapsed()
}

#[tokio::test]
async fn the_printed_curl_command_places_an_order_that_is_processed() {
    let up = Up::start(&[]).await;
    let output = up.output();
    let api = up.url("order-api");
    assert!(
        output.contains(&format!("curl -i {api}/orders -H")),
        "{output}"
    );
    for name in ["outbox-relay", "inventory-worker", "DynamoDB", "SQS"] {
        assert!(up.url(name).starts_with("http://127.0.0.1:"), "{output}");
    }
    for pid in up.children() {
        assert!(output.contains(&format!("pid {pid}")), "{output}");
    }

    let curl = output
        .lines()
        .find(|line| line.trim_start().starts_with("curl -i"))
        .unwrap();
    let body = curl.split('\'').nth(3).unwrap();
    let http = reqwest::Client::new();
    let answer = http
        .post(format!("{api}/orders"))
        .header("content-type", "application/json")
        .body(body.to_owned())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 201);

    let took = place_order(&up, &http, 1).await;
    assert!(took < PROCESSED_WITHIN, "{took:?}");
}

#[tokio::test]
async fn ctrl_c_leaves_no_process_and_no_file() {
    let mut up = Up::start(&[]).await;
    place_order(&up, &reqwest::Client::new(), 1).await;
    let children = up.children();
    assert_eq!(children.len(), 3);
    assert!(children.iter().all(|pid| runs(*pid)));
    assert!(!up.leftovers().is_empty(), "the database is somewhere else");

    up.signal(Signal::SIGINT);
    let status = up.ended().await;
    assert_eq!(status.code(), Some(0), "{}", up.log());
    let left: Vec<_> = children.into_iter().filter(|pid| runs(*pid)).collect();
    assert_eq!(left, Vec::<u32>::new());
    assert_eq!(up.leftovers(), Vec::<std::path::PathBuf>::new());
    assert!(
        !up.log().contains("service ended unexpectedly"),
        "{}",
        up.log()
    );
    assert!(
        !up.log().contains("service stopped with an error"),
        "{}",
        up.log()
    );
}

#[tokio::test]
async fn a_second_ctrl_c_leaves_no_process_and_no_file() {
    let mut up = Up::start(&[]).await;
    let children = up.children();
    up.signal(Signal::SIGINT);
    up.signal(Signal::SIGTERM);
    up.ended().await;
    assert!(!children.into_iter().any(runs));
    assert_eq!(up.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn the_children_end_when_their_parent_is_killed() {
    let mut up = Up::start(&[]).await;
    let children = up.children();
    up.signal(Signal::SIGKILL);
    up.ended().await;
    let ended = eventually(PATIENCE, || async {
        match children.iter().filter(|pid| runs(**pid)).count() {
            0 => Ok(()),
            left => Err(format!("{left} still run:\n{}", up.log())),
        }
    });
    ended.await.unwrap();
}

#[tokio::test]
async fn a_killed_service_is_restarted_and_orders_are_processed_again() {
    let up = Up::start(&[]).await;
    let http = reqwest::Client::new();
    place_order(&up, &http, 1).await;
    for service in ["order-api", "outbox-relay", "inventory-worker"] {
        let killed = up.pids_of(service)[0];
        support::signal(killed, Signal::SIGKILL);
        let url = format!("{}/readyz", up.url(service));
        let back = eventually(PATIENCE, || async {
            let pids = up.pids_of(service);
            if pids.len() < 2 || !runs(pids[1]) {
                return Err(format!("{service} was not restarted:\n{}", up.log()));
            }
            match http.get(&url).send().await {
                Ok(answer) if answer.status() == 200 => Ok(()),
                other => Err(format!("{other:?}\n{}", up.log())),
            }
        });
        back.await.unwrap();
        let log = up.log();
        assert!(log.contains("signal: 9"), "{log}");
        let took = place_order(&up, &http, 2).await;
        assert!(took < PROCESSED_WITHIN * 2, "{service}: {took:?}\n{log}");
    }
}

#[tokio::test]
async fn a_trace_context_is_stored_without_an_exporter() {
    // The default OTLP endpoint. If the port is in use, the test shows nothing about exporting, but
    // still verifies the stored context.
    let otlp = TcpListener::bind("127.0.0.1:4317").await;
    let up = Up::start(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]).await;
    let order = post_order(&reqwest::Client::new(), &up.url("order-api"), 1).await;
    let stored = item(&up.dynamodb(), &order.id).await;
    let traceparent = stored["traceparent"].as_s().unwrap();
    assert!(traceparent.starts_with("00-"), "{traceparent}");
    assert_eq!(traceparent.len(), 55);

    let mut up = up;
    up.signal(Signal::SIGTERM);
    assert_eq!(up.ended().await.code(), Some(0));
    if let Ok(otlp) = otlp {
        let exported = tokio::time::timeout(Duration::from_millis(1), otlp.accept()).await;
        assert!(exported.is_err(), "something was exported");
    }
}

#[tokio::test]
async fn a_port_in_use_is_reported_with_its_service_and_option() {
    for (variable, service, option) in [
        (
            "ALL_IN_ONE_DYNAMODB_LISTEN",
            "DynamoDB",
            "--dynamodb-listen",
        ),
        ("ALL_IN_ONE_SQS_LISTEN", "SQS", "--sqs-listen"),
        ("ORDER_API_LISTEN", "order-api", "--order-api-listen"),
        (
            "ORDER_API_ADMIN_LISTEN",
            "order-api",
            "--order-api-admin-listen",
        ),
        ("RELAY_ADMIN_LISTEN", "outbox-relay", "--relay-admin-listen"),
        (
            "WORKER_ADMIN_LISTEN",
            "inventory-worker",
            "--worker-admin-listen",
        ),
    ] {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let mut up = Up::spawn(&[(variable, &address)]);
        assert_eq!(up.ended().await.code(), Some(1));
        let sentence = eventually(PATIENCE, || async {
            let log = up.log();
            let found = log.lines().find(|line| line.starts_with("error:"));
            found.map(str::to_owned).ok_or(log)
        });
        let sentence = sentence.await.unwrap();
        for part in [service, &address, option, variable] {
            assert!(sentence.contains(part), "{part} is not in: {sentence}");
        }
        assert_eq!(up.children(), Vec::<u32>::new());
        assert_eq!(up.leftovers(), Vec::<std::path::PathBuf>::new());
    }
}

#[tokio::test]
async fn an_invalid_service_option_is_reported_before_anything_starts() {
    for (variable, value) in [
        ("SHUTDOWN_GRACE", "soon"),
        ("WORKER_CONCURRENCY", "many"),
        ("RELAY_LEASE_DURATION", "ten"),
        ("ORDER_API_LISTEN", "localhost"),
        ("RELAY_ADMIN_LISTEN", "0.0.0.0:0"),
    ] {
        let mut up = Up::spawn(&[(variable, value)]);
        assert_eq!(
            up.ended().await.code(),
            Some(64),
            "{variable}\n{}",
            up.log()
        );
        assert_eq!(up.children(), Vec::<u32>::new());
        assert_eq!(up.leftovers(), Vec::<std::path::PathBuf>::new());
    }
}
