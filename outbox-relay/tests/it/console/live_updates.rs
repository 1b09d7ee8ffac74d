//! What viewers are told without asking, and what that costs.

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

use super::{Console, Live, detail, failed};
use crate::support::{DEADLINE, Stage, event};

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_sees_events_as_they_are_published_and_as_they_fail() {
    let console = Console::open(&[]).await;
    let mut live = console.live().await;
    let about = live.until("about", |_| true).await;
    assert_eq!(about["instance"], "relay-1");
    assert_eq!(about["outbox_table"], "outbox");

    console.stage.put(event("o-1", 1)).await;
    let beat = live
        .until("beat", |beat| beat["published"] != json!([]))
        .await;
    let published = &beat["published"][0];
    assert_eq!(published["event_id"], "o-1:1");
    assert_eq!(published["queue"], "order-events");
    assert_eq!(published["path"], "stream");
    let slot = beat["slots"]
        .as_array()
        .unwrap()
        .iter()
        .find(|slot| slot["published"] == 1);
    assert!(slot.is_some_and(|slot| slot["lag_count"] == 1), "{beat}");

    let mut bad = event("o-2", 1);
    bad.insert("payload".to_owned(), crate::support::text("{oops"));
    console.stage.put(bad).await;
    live.until("beat", |beat| {
        beat["slots"]
            .as_array()
            .unwrap()
            .iter()
            .any(|slot| slot["quarantined"] == 1)
    })
    .await;
    let list = live
        .until("failed", |list| list["events"] != json!([]))
        .await;
    assert_eq!(list["events"][0]["event_id"], "o-2:1");
    let status = live
        .until("status", |status| status["failed"]["count"] == 1)
        .await;
    assert_eq!(status["shards"][0]["owner"], "relay-1");
    live.until("status", |status| status["shards"][0]["life"] == "alive")
        .await;

    // A second viewer is told what was before it came, and first of whom.
    let mut second = console.live().await;
    assert_eq!(second.next().await.0, "about");
    second.until("status", |_| true).await;
    let beat = second.until("beat", |_| true).await;
    assert_eq!(beat["published"][0]["event_id"], "o-1:1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_told_at_once() {
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

/// Whether one more viewer gets in.
async fn admitted(console: &Console) -> Option<Live> {
    let answer = console.get("/api/live").await;
    if answer.status() == StatusCode::OK {
        return Some(Live::new(answer));
    }
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(detail(answer).await.contains("64"));
    None
}

/// Waits for the room that a viewer makes by leaving.
async fn until_admitted(console: &Console) -> Live {
    let viewer = eventually(DEADLINE, || async {
        admitted(console).await.ok_or("there is no room")
    });
    viewer.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn viewers_have_a_bound_and_make_room_when_they_leave() {
    let console = Console::open(&[]).await;
    let mut viewers = Vec::new();
    for _ in 0..64 {
        viewers.push(console.live().await);
    }
    assert!(admitted(&console).await.is_none());

    // Refusals make no room, and the one that leaves makes it for one.
    viewers.pop();
    viewers.push(until_admitted(&console).await);
    for _ in 0..3 {
        assert!(admitted(&console).await.is_none());
    }

    viewers.clear();
    let mut viewer = until_admitted(&console).await;
    viewer.until("beat", |_| true).await;
    viewer.until("status", |_| true).await;
}

/// Passes requests on and counts those for failed events: no one but the
/// console asks for them.
#[derive(Debug)]
struct Counted {
    target: String,
    http: reqwest::Client,
    looks: AtomicUsize,
    others: AtomicUsize,
}

async fn forward(
    State(counted): State<Arc<Counted>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, StatusCode> {
    // The relay itself counts failed events, but does not list them.
    let text = String::from_utf8_lossy(&body);
    let is_look = headers
        .get("x-amz-target")
        .is_some_and(|target| target.as_bytes().ends_with(b".Query"))
        && text.contains(r#""FAILED""#)
        && !text.contains("COUNT");
    let count = if is_look {
        &counted.looks
    } else {
        &counted.others
    };
    count.fetch_add(1, Ordering::SeqCst);
    let mut request = counted.http.post(&counted.target).body(body);
    for (name, value) in &headers {
        if ![header::HOST, header::CONTENT_LENGTH].contains(name) {
            request = request.header(name, value);
        }
    }
    let answer = request.send().await.map_err(|_| StatusCode::BAD_GATEWAY)?;
    let status = answer.status();
    let kind: HeaderName = header::CONTENT_TYPE;
    let head = [(kind.clone(), answer.headers()[&kind].clone())];
    let body = answer.bytes().await.map_err(|_| StatusCode::BAD_GATEWAY)?;
    Ok((status, head, body).into_response())
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_looked_at_only_for_viewers_and_once_for_all_of_them() {
    let stage = Stage::new().await;
    let counted = Arc::new(Counted {
        target: stage.cloud.dynamodb_url(),
        http: reqwest::Client::new(),
        looks: AtomicUsize::new(0),
        others: AtomicUsize::new(0),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = axum::Router::new()
        .fallback(forward)
        .with_state(Arc::clone(&counted));
    let proxy = tokio::spawn(async move { axum::serve(listener, router).await });
    let console = Console::on(stage, &[("AWS_ENDPOINT_URL_DYNAMODB", &url)], None).await;
    let looks = || counted.looks.load(Ordering::SeqCst);

    // It works for a while, and nobody looks.
    for sequence in 1..=3 {
        console.stage.put(event("o-1", sequence)).await;
        console
            .stage
            .until_status("o-1", sequence, "PUBLISHED")
            .await;
    }
    assert_eq!(looks(), 0);

    // Eight look: as often as for one, which is every two seconds at most.
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
    let most = 1 + usize::try_from(started.elapsed().as_secs() / 2).unwrap() + 1;
    // Lists and status are looked at in rhythms of their own.
    assert!((1..=most).contains(&looks()), "{} of {most}", looks());

    // None is left: at most what is under way follows, while the relay goes on
    // with its own work.
    drop(viewers);
    let quiet = eventually(DEADLINE, || async {
        let before = looks();
        let others = counted.others.load(Ordering::SeqCst);
        eventually(DEADLINE, || async {
            match counted.others.load(Ordering::SeqCst) - others {
                300.. => Ok(()),
                few => Err(few),
            }
        })
        .await
        .unwrap();
        if looks() == before {
            Ok(())
        } else {
            Err(looks())
        }
    });
    quiet.await.unwrap();
    proxy.abort();
}
