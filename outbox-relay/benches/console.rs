//! How soon the console and the terminal answer when the outbox is large.
//!
//! `cargo bench -p outbox-relay --bench console -- 1000000`: the number of
//! published events of some 300 bytes beside 1,000 failed and 200 pending ones;
//! 1,000,000 by default. Fails when any answer takes [`MOST`] or longer: the
//! machine is shared with nobody, or the figure says nothing.

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

/// What every single answer stays below.
const MOST: Duration = Duration::from_millis(100);

const FAILED: usize = 1_000;
const PENDING: usize = 200;

/// How often each route and command is asked.
const REQUESTS: usize = 200;
const RUNS: usize = 20;

/// For a relay to read past all that is published.
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
    ensure!(count > 0, "one published event at least is looked at");
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
    // What is pending stays so: its queue does not exist.
    let front = front(&cloud).await?;
    let extra = [
        ("RELAY_ROUTES", "order.*=order-events,late.*=missing"),
        (DYNAMODB, front.url()),
    ];
    let relay = support::relay(&cloud, &extra).await?;
    until_caught_up(&cloud).await?;
    println!("a relay read past them in {:.0?}", started.elapsed());

    // Somebody looks all the while.
    let viewer = reqwest::get(relay.url("/api/live")).await?;
    let mut slow = Vec::new();
    for path in paths(count) {
        let took = ask(&relay, &path).await?;
        report(&path, took, &mut slow);
    }
    for arguments in commands(count) {
        let took = run(&cloud, front.url(), &arguments).await?;
        report(&arguments.join(" "), took, &mut slow);
    }
    drop(viewer);
    cloud.stop().await?;
    ensure!(slow.is_empty(), "{MOST:?} or more: {}", slow.join(", "));
    Ok(())
}

/// The embedded DynamoDB counts a table's items whenever it is to describe it,
/// and answers nobody meanwhile: 0.4 s for 1,000,000. AWS counts them every six
/// hours. So relay and terminal see it through a proxy that has one description
/// of the outbox.
async fn front(cloud: &LocalCloud) -> Result<Proxy> {
    let answer = reqwest::Client::new()
        .post(cloud.dynamodb_url())
        .header("x-amz-target", "DynamoDB_20120810.DescribeTable")
        .header(CONTENT_TYPE, "application/x-amz-json-1.0")
        // Looked for, and not checked.
        .header("x-amz-date", "20260101T000000Z")
        .header(AUTHORIZATION, SIGNATURE)
        .body(r#"{"TableName":"outbox"}"#)
        .send()
        .await?
        .error_for_status()?;
    let description = Fault::Answer(200, answer.text().await?);
    let front = Proxy::start(cloud.dynamodb_url()).await?;
    front.rule(move |call| match call.operation {
        "DescribeTable" if call.body.contains(r#""outbox""#) => description.clone(),
        _ => Fault::Pass,
    });
    Ok(front)
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

/// With an event id of its own: such an event is looked for in the index.
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

/// Everything was written before the one event that can be published, and a
/// stream is read in order.
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

/// The routes of the admin port that read.
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

/// `status` itself waits for the leases to beat; one look is what it asks of
/// the tables.
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

async fn ask(relay: &Service, path: &str) -> Result<Vec<Duration>> {
    let http = reqwest::Client::new();
    let mut took = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        let started = Instant::now();
        let mut answer = http.get(relay.url(path)).send().await?;
        // The missing queue shows.
        let expected = match path {
            "/readyz" => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::OK,
        };
        ensure!(answer.status() == expected, "{path}: {answer:?}");
        if path == "/api/live" {
            until_all_is_shown(&mut answer).await?;
        } else {
            answer.bytes().await?;
        }
        took.push(started.elapsed());
    }
    Ok(took)
}

/// A viewer is told the state and both lists.
async fn until_all_is_shown(answer: &mut reqwest::Response) -> Result<()> {
    let mut shown = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        shown.extend_from_slice(&chunk);
        let text = String::from_utf8_lossy(&shown);
        let is_shown = |name| text.contains(&format!("event: {name}\n"));
        if ["status", "failed", "pending"].into_iter().all(is_shown) {
            return Ok(());
        }
    }
    bail!("the live messages ended")
}

async fn run(cloud: &LocalCloud, front: &str, arguments: &[String]) -> Result<Vec<Duration>> {
    let mut took = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let started = Instant::now();
        let output = tokio::process::Command::new(RELAY)
            .args(arguments)
            .envs(cloud.env())
            .env(DYNAMODB, front)
            .stdin(Stdio::null())
            .output()
            .await?;
        took.push(started.elapsed());
        ensure!(output.status.success(), "{arguments:?}: {output:?}");
        ensure!(!output.stdout.is_empty(), "{arguments:?} shows nothing");
    }
    Ok(took)
}

fn report(what: &str, mut took: Vec<Duration>, slow: &mut Vec<String>) {
    took.sort_unstable();
    let most = took[took.len() - 1];
    println!(
        "  p50 {:>9.1?}  max {most:>9.1?}  {what}",
        took[took.len() / 2]
    );
    if most >= MOST {
        slow.push(what.to_owned());
    }
}
