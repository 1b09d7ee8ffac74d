//! Response times of the console and of the commands when the outbox is large.
//!
//! `cargo bench -p outbox-relay --bench console -- 1000000`: the number of published events, of
//! some 300 bytes each, beside 1,000 failed and 200 pending ones; 1,000,000 by default. Fails if
//! any response takes [`MAX_RESPONSE_TIME`] or longer. The figures are meaningful only on an
//! otherwise idle machine.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a benchmark measures real time"
)]

mod support;

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use local_cloud::LocalCloud;
use outbox::timestamp::Timestamp;
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use support::{Item, RELAY, event, text};
use test_support::{Fault, Proxy, Service, eventually};

/// Exclusive upper bound on the time of every single response.
const MAX_RESPONSE_TIME: Duration = Duration::from_millis(100);

const FAILED: usize = 1_000;
const PENDING: usize = 200;

/// Number of requests of each route, and of runs of each command.
const REQUESTS: usize = 200;
const RUNS: usize = 20;

/// Time limit for the relay to read past the published events.
const DEADLINE: Duration = Duration::from_secs(900);

const DYNAMODB: &str = "AWS_ENDPOINT_URL_DYNAMODB";

const SIGNATURE: &str = "AWS4-HMAC-SHA256 Credential=local/20260101/us-east-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0";

const PAYLOAD: &str = r#"{"currency":"EUR","total_minor":3998}"#;

#[tokio::main]
async fn main() -> Result<()> {
    let count = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .next()
        .unwrap_or(1_000_000);
    ensure!(count > 0, "at least one published event is required");
    let cloud = support::cloud().await?;
    let started = Instant::now();
    support::put_all(&cloud, (0..count).map(published)).await?;
    support::put_all(&cloud, (0..FAILED).map(failed)).await?;
    support::put_all(&cloud, (0..PENDING).map(pending)).await?;
    println!(
        "{count} published, {FAILED} failed and {PENDING} pending events, written in {:.0?}",
        started.elapsed()
    );

    let started = Instant::now();
    // The pending events stay pending, because their queue does not exist.
    let proxy = description_proxy(&cloud).await?;
    let extra = [
        ("RELAY_ROUTES", "order.*=order-events,late.*=missing"),
        (DYNAMODB, proxy.url()),
    ];
    let relay = support::relay(&cloud, &extra).await?;
    until_caught_up(&cloud).await?;
    println!("a relay read past them in {:.0?}", started.elapsed());

    // One viewer is connected all the time.
    let viewer = reqwest::get(relay.url("/api/live")).await?;
    let mut slow = Vec::new();
    for path in paths(count) {
        let times = request(&relay, &path).await?;
        report(&path, times, &mut slow);
    }
    for arguments in commands(count) {
        let times = run(&cloud, proxy.url(), &arguments).await?;
        report(&arguments.join(" "), times, &mut slow);
    }
    drop(viewer);
    cloud.stop().await?;
    ensure!(
        slow.is_empty(),
        "{MAX_RESPONSE_TIME:?} or longer: {}",
        slow.join(", ")
    );
    Ok(())
}

/// Starts a proxy that answers each description of the outbox table with one recorded response.
///
/// The embedded DynamoDB counts the items of a table for each description, and serves no other
/// request meanwhile: 0.4 s for 1,000,000 items. AWS counts them every six hours.
async fn description_proxy(cloud: &LocalCloud) -> Result<Proxy> {
    let response = reqwest::Client::new()
        .post(cloud.dynamodb_url())
        .header("x-amz-target", "DynamoDB_20120810.DescribeTable")
        .header(CONTENT_TYPE, "application/x-amz-json-1.0")
        // Required, but not verified.
        .header("x-amz-date", "20260101T000000Z")
        .header(AUTHORIZATION, SIGNATURE)
        .body(r#"{"TableName":"outbox"}"#)
        .send()
        .await?
        .error_for_status()?;
    let description = Fault::Answer(200, response.text().await?);
    let proxy = Proxy::start(cloud.dynamodb_url()).await?;
    proxy.rule(move |call| match call.operation {
        "DescribeTable" if call.body.contains(r#""outbox""#) => description.clone(),
        _ => Fault::Pass,
    });
    Ok(proxy)
}

fn published(n: usize) -> Item {
    let mut item = event(&format!("published-{n}"), PAYLOAD);
    item.remove("state_bucket");
    let now = Timestamp::now();
    let expires = (now.as_seconds() + 7 * 24 * 3600).to_string();
    item.extend([
        ("status".to_owned(), text("PUBLISHED")),
        ("published_at".to_owned(), text(now)),
        ("message_id".to_owned(), text(format!("message-{n}"))),
        ("expires_at".to_owned(), AttributeValue::N(expires)),
    ]);
    item
}

/// Returns a failed event with an id of its own, which a search has to find in the index.
fn failed(n: usize) -> Item {
    let mut item = event(&format!("failed-{n}"), PAYLOAD);
    item.extend([
        ("event_id".to_owned(), text(format!("id-of-failed-{n}"))),
        ("status".to_owned(), text("FAILED")),
        ("state_bucket".to_owned(), text("FAILED")),
        ("failed_at".to_owned(), text(Timestamp::now())),
        ("failure".to_owned(), text("no route matches")),
    ]);
    item
}

fn pending(n: usize) -> Item {
    let mut item = event(&format!("pending-{n}"), PAYLOAD);
    item.insert("event_type".to_owned(), text("late.placed"));
    item
}

/// Waits until the relay has read past all events: the one event that can be published is written
/// last, and a stream is read in order.
async fn until_caught_up(cloud: &LocalCloud) -> Result<()> {
    support::put_all(cloud, [event("last", PAYLOAD)]).await?;
    let dynamodb = cloud.dynamodb_client();
    eventually(DEADLINE, || async {
        let last = dynamodb
            .get_item()
            .table_name("outbox")
            .key("aggregate_id", text("last"))
            .key("sequence", AttributeValue::N("1".to_owned()))
            .send()
            .await?;
        let status = last.item.context("no item")?["status"].clone();
        ensure!(status == text("PUBLISHED"), "it is still {status:?}");
        Ok(())
    })
    .await
}

/// Returns the routes of the admin port that change nothing.
fn paths(count: usize) -> Vec<String> {
    let middle = count / 2;
    [
        "/",
        "/healthz",
        "/readyz",
        "/metrics",
        "/api/events?state=failed",
        "/api/events?state=failed&limit=500",
        "/api/events?state=failed&reason=matches%20nothing",
        "/api/events?state=pending",
        "/api/search?q=id-of-failed-500",
        "/api/event?aggregate_id=failed-500&sequence=1",
    ]
    .map(str::to_owned)
    .into_iter()
    .chain([
        format!("/api/search?q=published-{middle}"),
        format!("/api/event?aggregate_id=published-{middle}&sequence=1"),
        "/api/live".to_owned(),
    ])
    .collect()
}

/// Returns the commands that change nothing. `watch --count 1` stands for `status`: it issues the
/// same requests but does not wait for heartbeats of the leases.
fn commands(count: usize) -> Vec<Vec<String>> {
    let middle = count / 2;
    [
        "watch --count 1 --max-lag 1d --max-failed 1000".to_owned(),
        "list".to_owned(),
        "list --state failed".to_owned(),
        format!("list --aggregate published-{middle}"),
        format!("show published-{middle}:1"),
        "show id-of-failed-500".to_owned(),
    ]
    .iter()
    .map(|line| line.split(' ').map(str::to_owned).collect())
    .collect()
}

/// Returns the durations of [`REQUESTS`] requests.
async fn request(relay: &Service, path: &str) -> Result<Vec<Duration>> {
    let http = reqwest::Client::new();
    let mut times = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        let started = Instant::now();
        let mut response = http.get(relay.url(path)).send().await?;
        // The relay is not ready because of the missing queue.
        let expected = match path {
            "/readyz" => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::OK,
        };
        ensure!(response.status() == expected, "{path}: {response:?}");
        if path == "/api/live" {
            until_all_updates_arrived(&mut response).await?;
        } else {
            response.bytes().await?;
        }
        times.push(started.elapsed());
    }
    Ok(times)
}

/// Reads live updates until the status and both lists have arrived.
async fn until_all_updates_arrived(response: &mut reqwest::Response) -> Result<()> {
    let mut received = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        received.extend_from_slice(&chunk);
        let text = String::from_utf8_lossy(&received);
        let has_arrived = |name| text.contains(&format!("event: {name}\n"));
        if ["status", "failed", "pending"].into_iter().all(has_arrived) {
            return Ok(());
        }
    }
    bail!("the live updates ended early")
}

/// Returns the durations of [`RUNS`] runs of a command, the start of the process included.
async fn run(cloud: &LocalCloud, endpoint: &str, arguments: &[String]) -> Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let started = Instant::now();
        let output = tokio::process::Command::new(RELAY)
            .args(arguments)
            .envs(cloud.env())
            .env(DYNAMODB, endpoint)
            .stdin(Stdio::null())
            .output()
            .await?;
        times.push(started.elapsed());
        ensure!(output.status.success(), "{arguments:?}: {output:?}");
        ensure!(!output.stdout.is_empty(), "{arguments:?} printed nothing");
    }
    Ok(times)
}

/// Prints median and maximum of `times`, and adds `subject` to `slow` if the maximum is too long.
fn report(subject: &str, mut times: Vec<Duration>, slow: &mut Vec<String>) {
    times.sort_unstable();
    let max = times[times.len() - 1];
    println!(
        "  p50 {:>9.1?}  max {max:>9.1?}  {subject}",
        times[times.len() / 2]
    );
    if max >= MAX_RESPONSE_TIME {
        slow.push(subject.to_owned());
    }
}
