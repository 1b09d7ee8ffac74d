//! Live updates, and the requests that they cost.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use test_support::eventually;
use tokio::net::TcpListener;

use super::{Console, LiveUpdates, detail, failed};
use crate::support::{DEADLINE, Stage, event};

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_receives_published_and_failed_events() {
    let console = Console::open(&[]).await;
    let mut live = console.live().await;
    let about = live.until("about", |_| true).await;
    assert_eq!(about["instance"], "relay-1");
    assert_eq!(about["outbox_table"], "outbox");

    console.stage.put(event("o-1", 1)).await;
    let heartbeat = live
        .until("heartbeat", |heartbeat| heartbeat["published"] != json!([]))
        .await;
    let published = &heartbeat["published"][0];
    assert_eq!(published["event_id"], "o-1:1");
    assert_eq!(published["queue"], "order-events");
    assert_eq!(published["path"], "stream");
    let slot = heartbeat["slots"]
        .as_array()
        .unwrap()
        .iter()
        .find(|slot| slot["published"] == 1);
    assert!(
        slot.is_some_and(|slot| slot["lag_count"] == 1),
        "{heartbeat}"
    );

    let mut bad = event("o-2", 1);
    bad.insert("payload".to_owned(), crate::support::text("{oops"));
    console.stage.put(bad).await;
    // A heartbeat has the counts of the last seconds only, and the list is sent when it was read:
    // either may come first.
    let (mut is_listed, mut is_counted) = (false, false);
    let received = tokio::time::timeout(DEADLINE, async {
        while !(is_listed && is_counted) {
            let (name, data) = live.next().await;
            match name.as_str() {
                "failed" => is_listed |= data["events"][0]["event_id"] == "o-2:1",
                "heartbeat" => {
                    let mut slots = data["slots"].as_array().unwrap().iter();
                    is_counted |= slots.any(|slot| slot["quarantined"] == 1);
                }
                _ => {}
            }
        }
    });
    assert!(
        received.await.is_ok(),
        "listed: {is_listed}, counted: {is_counted}"
    );
    let status = live
        .until("status", |status| status["failed"]["count"] == 1)
        .await;
    assert_eq!(status["shards"][0]["owner"], "relay-1");
    live.until("status", |status| status["shards"][0]["life"] == "alive")
        .await;

    // A later viewer receives the identity of the relay first, then the earlier activity.
    let mut second = console.live().await;
    assert_eq!(second.next().await.0, "about");
    second.until("status", |_| true).await;
    let heartbeat = second.until("heartbeat", |_| true).await;
    assert_eq!(heartbeat["published"][0]["event_id"], "o-1:1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_by_an_operator_is_sent_at_once() {
    let console = Console::open(&[]).await;
    console.stage.put(failed("o-1", 1, "for the test")).await;
    let mut live = console.live().await;
    live.until("failed", |list| list["events"] != json!([]))
        .await;
    let discard = json!({ "aggregate_id": "o-1", "sequence": "1", "reason": "tested" });
    assert_eq!(
        console.post("/api/discard", &discard).await.status(),
        StatusCode::OK
    );
    live.until("failed", |list| list["events"] == json!([]))
        .await;
    live.until("status", |status| status["failed"]["count"] == 0)
        .await;
}

/// Connects a viewer, or returns `None` if the limit of viewers is reached.
async fn try_connect(console: &Console) -> Option<LiveUpdates> {
    let response = console.get("/api/live").await;
    if response.status() == StatusCode::OK {
        return Some(LiveUpdates::new(response));
    }
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(detail(response).await.contains("64"));
    None
}

/// Connects a viewer as soon as the limit permits it.
async fn connect(console: &Console) -> LiveUpdates {
    let viewer = eventually(DEADLINE, || async {
        try_connect(console)
            .await
            .ok_or("the limit of viewers is reached")
    });
    viewer.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn viewers_are_limited_and_disconnecting_frees_a_place() {
    let console = Console::open(&[]).await;
    let mut viewers = Vec::new();
    for _ in 0..64 {
        viewers.push(console.live().await);
    }
    assert!(try_connect(&console).await.is_none());

    // A rejection frees no place; a viewer that disconnects frees one.
    viewers.pop();
    viewers.push(connect(&console).await);
    for _ in 0..3 {
        assert!(try_connect(&console).await.is_none());
    }

    viewers.clear();
    let mut viewer = connect(&console).await;
    viewer.until("heartbeat", |_| true).await;
    viewer.until("status", |_| true).await;
}

/// Proxy that counts the lists of failed events, which only the console requests.
#[derive(Debug)]
struct CountingProxy {
    target: String,
    http: reqwest::Client,
    lists: AtomicUsize,
    others: AtomicUsize,
}

async fn forward(
    State(proxy): State<Arc<CountingProxy>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, StatusCode> {
    // The relay itself counts failed events but does not list them.
    let text = String::from_utf8_lossy(&body);
    let is_list = headers
        .get("x-amz-target")
        .is_some_and(|target| target.as_bytes().ends_with(b".Query"))
        && text.contains(r#""FAILED""#)
        && !text.contains("COUNT");
    let count = if is_list { &proxy.lists } else { &proxy.others };
    count.fetch_add(1, Ordering::SeqCst);
    let mut request = proxy.http.post(&proxy.target).body(body);
    for (name, value) in &headers {
        if ![header::HOST, header::CONTENT_LENGTH].contains(name) {
            request = request.header(name, value);
        }
    }
    let response = request.send().await.map_err(|_| StatusCode::BAD_GATEWAY)?;
    let status = response.status();
    let kind: HeaderName = header::CONTENT_TYPE;
    let head = [(kind.clone(), response.headers()[&kind].clone())];
    let body = response
        .bytes()
        .await
        .map_err(|_| StatusCode::BAD_GATEWAY)?;
    Ok((status, head, body).into_response())
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_polled_only_for_viewers_and_once_for_all_of_them() {
    let stage = Stage::new().await;
    let proxy = Arc::new(CountingProxy {
        target: stage.cloud.dynamodb_url(),
        http: reqwest::Client::new(),
        lists: AtomicUsize::new(0),
        others: AtomicUsize::new(0),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = axum::Router::new()
        .fallback(forward)
        .with_state(Arc::clone(&proxy));
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let console = Console::on(stage, &[("AWS_ENDPOINT_URL_DYNAMODB", &url)], None).await;
    let lists = || proxy.lists.load(Ordering::SeqCst);

    // The relay publishes while no viewer is connected.
    for sequence in 1..=3 {
        console.stage.put(event("o-1", sequence)).await;
        console
            .stage
            .until_status("o-1", sequence, "PUBLISHED")
            .await;
    }
    assert_eq!(lists(), 0);

    // Eight viewers cost as much as one: at most one poll every two seconds.
    let started = Instant::now();
    let mut viewers = Vec::new();
    for _ in 0..8 {
        viewers.push(console.live().await);
    }
    for viewer in &mut viewers {
        viewer.until("status", |_| true).await;
        viewer.until("status", |_| true).await;
        viewer.until("status", |_| true).await;
    }
    let max = 1 + usize::try_from(started.elapsed().as_secs() / 2).unwrap() + 1;
    // Lists and status are polled on separate schedules.
    assert!((1..=max).contains(&lists()), "{} of {max}", lists());

    // After the last viewer at most the poll in flight ends, while the relay continues to issue
    // requests of its own.
    drop(viewers);
    let polls_end = eventually(DEADLINE, || async {
        let before = lists();
        let others = proxy.others.load(Ordering::SeqCst);
        eventually(DEADLINE, || async {
            match proxy.others.load(Ordering::SeqCst) - others {
                300.. => Ok(()),
                few => Err(few),
            }
        })
        .await
        .unwrap();
        if lists() == before {
            Ok(())
        } else {
            Err(lists())
        }
    });
    polls_end.await.unwrap();
    server.abort();
}
