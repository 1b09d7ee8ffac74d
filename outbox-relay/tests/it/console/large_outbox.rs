//! Lists of 100,000 failed events, and of large events.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use reqwest::StatusCode;

use super::{Console, failed, key};
use crate::support::{Stage, text};

const FAILED: u64 = 100_000;

/// Time limit of a page, which is one page of one Query however many events follow; many times the
/// duration on an idle machine.
const PAGE_TIMEOUT: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_failed_events_are_listed_page_by_page() {
    let stage = Stage::new().await;
    for chunk in 0..100 {
        let per_chunk = FAILED / 100;
        let items = (0..per_chunk)
            .map(|n| {
                failed(
                    &format!("o-{:06}", chunk * per_chunk + n),
                    1,
                    "for the test",
                )
            })
            .collect();
        stage.put_all(items).await;
    }
    let console = Console::on(stage, &[], None).await;

    let mut seen = HashSet::new();
    let mut after = None::<String>;
    for _ in 0..10 {
        let mut query = vec![("state", "failed".to_owned()), ("limit", "500".to_owned())];
        query.extend(after.map(|after| ("after", after)));
        let started = Instant::now();
        let request = console
            .http
            .get(console.relay.url("/api/events"))
            .query(&query);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let page: serde_json::Value = response.json().await.unwrap();
        let elapsed = started.elapsed();
        assert!(elapsed < PAGE_TIMEOUT, "{elapsed:?}");
        let events = page["events"].as_array().unwrap();
        seen.extend(
            events
                .iter()
                .map(|event| event["event_id"].as_str().unwrap().to_owned()),
        );
        after = page["next"].as_str().map(str::to_owned);
    }
    assert_eq!(seen.len(), 5_000);
    assert!(after.is_some());

    // Counting all of them takes longer, and delays no other request.
    let mut live = console.live().await;
    live.until("failed", |list| {
        list["events"]
            .as_array()
            .is_some_and(|events| events.len() == 50)
    })
    .await;
    let status = live.until("status", |_| true).await;
    assert_eq!(status["failed"]["count"], FAILED, "{status}");
    let acted = console.post("/api/retry", &key("o-000000", 1)).await;
    assert_eq!(acted.status(), StatusCode::OK);
    console.stage.until_status("o-000000", 1, "PUBLISHED").await;
}

/// Maximum size of a page and of a live update, whatever the events contain.
const MAX_BYTES: usize = 512 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_large_events_is_bounded_and_the_next_page_has_the_rest() {
    const LARGE: usize = 60;
    let console = Console::open(&[]).await;
    // Keys are not cut, and a control character is six bytes of JSON.
    let ids: HashSet<_> = (0..LARGE)
        .map(|n| format!("{n:02}{}", "\u{1}".repeat(2_000)))
        .collect();
    let items = ids.iter().map(|id| {
        let mut item = failed(id, 1, "for the test");
        item.insert("event_type".to_owned(), text("x".repeat(100_000)));
        item
    });
    console.stage.put_all(items.collect()).await;

    let mut seen = HashSet::new();
    let mut after = None::<String>;
    loop {
        let mut query = vec![("state", "failed".to_owned()), ("limit", "500".to_owned())];
        query.extend(after.take().map(|after| ("after", after)));
        let request = console.http.get(console.relay.url("/api/events"));
        let response = request.query(&query).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let page = response.text().await.unwrap();
        assert!(page.len() <= MAX_BYTES, "{}", page.len());
        let page: serde_json::Value = serde_json::from_str(&page).unwrap();
        let events = page["events"].as_array().unwrap();
        seen.extend(
            events
                .iter()
                .map(|event| event["aggregate_id"].as_str().unwrap().to_owned()),
        );
        after = page["next"].as_str().map(str::to_owned);
        if after.is_none() {
            break;
        }
    }
    assert!(seen == ids, "{} of {LARGE}", seen.len());

    let mut live = console.live().await;
    let failed = live.until("failed", |_| true).await;
    assert!(failed["events"][0].is_object(), "{failed}");
    assert!(failed["next"].is_string());
    let size = failed.to_string().len();
    assert!(size <= MAX_BYTES, "{size}");
}
