//! The console in a browser, as an operator uses it.

use std::time::Duration;

use thirtyfour::Key;

use crate::browser::Browser;
use crate::system::System;

/// Script in a payload that must never run.
const MARKUP: &str = "</pre><img src=x onerror=\"window.ran=1\"><script>window.ran=1</script>";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs chromium and chromium-driver"]
async fn an_order_appears_and_its_whole_history_is_shown() {
    let system = System::start().await;
    let relay = system.relay("relay-1", &[]).await;
    let browser = Browser::start().await;
    browser
        .page
        .goto(relay.url("/#view=published"))
        .await
        .unwrap();
    browser.until_text("#health", "Healthy").await;
    browser.until_text("#relay", "relay-1").await;
    browser.until_text("#empty", "has not published").await;

    let order = system.order().await;
    browser.until_text("#list", &order).await;
    browser.until_text("#published-rate", "/s").await;

    // By key: search, open, read, close.
    browser.keys("/").await;
    browser.keys(order.clone() + Key::Enter).await;
    browser.until_text("#list tbody", "PUBLISHED").await;
    browser.run("document.activeElement.blur();").await;
    browser.keys("j").await;
    browser.keys(Key::Enter).await;
    for step in ["Committed", "Published", "Processed"] {
        browser.until_text("#detail .timeline", step).await;
    }
    browser.until_text("#detail dl", "PROCESSED").await;
    browser.until_text("#detail pre", &order).await;
    browser
        .until("document.querySelector('#detail .actions a').href.startsWith('http://localhost:16686/trace/')")
        .await;
    browser.keys(Key::Escape).await;
    browser
        .until("document.getElementById('detail').hidden")
        .await;
    browser
        .until("document.activeElement.closest('#list') !== null")
        .await;

    // A missing event is reported.
    browser.keys("/").await;
    browser.keys("no-such-order".to_owned() + Key::Enter).await;
    browser.until_text("#view-problem", "no-such-order").await;
    browser.has_no_errors().await;
    browser.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs chromium and chromium-driver"]
async fn a_failed_event_shows_its_reason_and_a_retry_publishes_it() {
    let system = System::start().await;
    let relay = system.relay("relay-1", &[]).await;
    let browser = Browser::start().await;
    browser.page.goto(relay.url("/")).await.unwrap();
    browser.until_text("#empty", "No event has failed").await;

    system
        .event("order-7", "order.placed", &format!("{{{MARKUP}"))
        .await;
    browser.until_text("#list", "order-7:1").await;
    browser.until_text("#list", "payload is not JSON").await;
    browser.until_text("#failed-count", "1").await;
    // The same as `status` in the terminal.
    browser.until_text("#health", "Needs attention").await;
    browser.click("#list a").await;
    browser
        .until_text("#detail .reason", "payload is not JSON")
        .await;
    browser.until_text("#detail pre", MARKUP).await;
    assert_eq!(
        browser.run("return window.ran ?? null;").await,
        serde_json::Value::Null
    );

    // The retry is cancelled first, then confirmed.
    browser.click("#retry").await;
    browser
        .until("document.getElementById('dialog').open")
        .await;
    browser.keys(Key::Escape).await;
    browser
        .until("!document.getElementById('dialog').open")
        .await;
    browser.until_text("#detail .summary", "FAILED").await;
    system.repair("order-7", r#"{"order_id":"order-7"}"#).await;
    browser.run("document.activeElement.blur();").await;
    browser.keys("r").await;
    browser
        .until("document.getElementById('dialog').open")
        .await;
    browser.click("#dialog-yes").await;
    browser.until_text("#detail .summary", "PUBLISHED").await;
    browser.until_text("#detail .timeline", "Retried").await;
    browser.until_text("#empty", "No event has failed").await;
    browser.until_text("#failed-count", "0").await;
    browser.until_text("#health", "Healthy").await;
    browser.has_no_errors().await;
    browser.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs chromium and chromium-driver"]
async fn an_open_event_shows_concurrent_changes() {
    let system = System::start().await;
    let relay = system.relay("relay-1", &[]).await;
    system.event("order-9", "invoice.sent", "{}").await;
    let browser = Browser::start().await;
    browser
        .page
        .goto(relay.url("/#view=failed&id=order-9&sequence=1"))
        .await
        .unwrap();
    browser.until_text("#detail .summary", "FAILED").await;
    browser.until("document.getElementById('retry')").await;
    system.discard(&relay, "order-9", "sent by hand").await;
    browser.until_text("#detail .summary", "DISCARDED").await;
    browser
        .until_text("#detail .timeline", "sent by hand")
        .await;
    browser.until("!document.getElementById('retry')").await;
    browser.has_no_errors().await;
    browser.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs chromium and chromium-driver"]
async fn health_is_unknown_before_the_first_check() {
    let system = System::start().await;
    let relay = system.relay("relay-1", &[]).await;
    let browser = Browser::start().await;
    // The number of failed events at each time the page showed it.
    browser
        .before_each_page(
            "window.known = [];
             new MutationObserver(() => {
               if (document.getElementById('health-text')?.textContent === 'Healthy') {
                 known.push(document.getElementById('failed-count').textContent);
               }
             }).observe(document, { subtree: true, childList: true, characterData: true });",
        )
        .await;
    browser.page.goto(relay.url("/")).await.unwrap();
    browser.until_text("#health", "Healthy").await;
    assert_eq!(browser.run("return window.known[0];").await, "0");
    browser.has_no_errors().await;
    browser.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs chromium and chromium-driver"]
async fn discarding_an_event_requires_and_stores_a_reason() {
    let system = System::start().await;
    let relay = system.relay("relay-1", &[]).await;
    system.event("order-8", "invoice.sent", "{}").await;
    let browser = Browser::start().await;
    browser
        .page
        .goto(relay.url("/#view=failed&id=order-8&sequence=1"))
        .await
        .unwrap();
    browser.until_text("#detail .reason", "invoice.sent").await;
    browser.click("#discard").await;
    browser
        .until("document.getElementById('dialog').open")
        .await;
    browser.click("#dialog-yes").await;
    // The browser itself requires the field.
    browser
        .until("document.querySelector('#dialog-reason:invalid') !== null && document.getElementById('dialog').open")
        .await;
    browser
        .run("document.getElementById('dialog-reason').focus();")
        .await;
    browser.keys("sent by hand".to_owned() + Key::Enter).await;
    browser.until_text("#detail .summary", "DISCARDED").await;
    browser
        .until_text("#detail .timeline", "sent by hand")
        .await;
    browser.until_text("#empty", "No event has failed").await;
    browser.has_no_errors().await;
    browser.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs chromium and chromium-driver"]
async fn a_blocked_event_names_its_cause_which_can_be_retried_there() {
    let system = System::start().await;
    let relay = system
        .relay("relay-1", &[("RELAY_ON_FAILURE", "hold")])
        .await;
    system.event("order-6", "order.placed", "{oops").await;
    for sequence in [2, 3] {
        system
            .event_at(
                "order-6",
                sequence,
                "order.placed",
                r#"{"order_id":"order-6"}"#,
            )
            .await;
    }
    system.event("stock-1", "stock.moved", "{}").await;
    let browser = Browser::start().await;
    browser
        .page
        .goto(relay.url("/#view=search&q=order-6"))
        .await
        .unwrap();
    browser.until_text("#view-blocked", "order-6:1").await;
    browser
        .until_text("#view-blocked", "payload is not JSON")
        .await;
    browser
        .until_text("#deferred", "3 pending events are deferred")
        .await;
    browser.until_text("#deferred", "2 for order-events").await;
    browser.until_text("#deferred", "1 for (no route)").await;
    browser
        .run("location.hash = 'view=pending&id=order-6&sequence=3';")
        .await;
    browser.until_text("#blocked", "order-6:1").await;
    browser
        .until_text("#detail .timeline", "Waiting for order-6:1")
        .await;
    for (width, height, scheme) in [(1280, 860, "light"), (380, 800, "dark")] {
        browser.window(width, height, scheme).await;
        browser
            .until(&format!("document.documentElement.scrollWidth <= {width}"))
            .await;
        browser.picture(&format!("console-blocked-{scheme}")).await;
    }
    browser.window(1280, 860, "light").await;
    system.repair("order-6", r#"{"order_id":"order-6"}"#).await;
    browser.click("#retry-blocking").await;
    browser.click("#dialog-yes").await;
    browser.until_text("#detail .summary", "PUBLISHED").await;
    browser.until("!document.getElementById('blocked')").await;
    browser
        .until_text("#deferred", "1 pending event is deferred")
        .await;
    browser.has_no_errors().await;
    browser.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs chromium and chromium-driver"]
async fn the_page_fits_wide_and_narrow_windows_light_and_dark() {
    let system = System::start().await;
    let relay = system.relay("relay-1", &[]).await;
    let failed = produce_activity(&system).await;
    let browser = Browser::start().await;
    browser.page.goto(relay.url("/")).await.unwrap();
    browser
        .until_text("#failed-count", &failed.to_string())
        .await;
    browser
        .until("document.querySelector('#published-chart svg .bars') !== null")
        .await;
    let order = system.order().await;
    for (width, height, scheme) in [
        (1280, 860, "light"),
        (1280, 860, "dark"),
        (380, 800, "light"),
        (380, 800, "dark"),
    ] {
        browser.window(width, height, scheme).await;
        let views = [
            ("failed", "#view=failed".to_owned()),
            ("published", "#view=published".to_owned()),
            ("shards", "#view=shards".to_owned()),
            ("event", format!("#view=published&id={order}&sequence=1")),
            ("reason", "#view=failed&id=order-0003&sequence=1".to_owned()),
        ];
        for (name, hash) in views {
            browser
                .run(&format!("location.hash = {};", serde_json::json!(hash)))
                .await;
            let ready = match name {
                "event" => "#detail .timeline li.processed",
                "reason" => "#detail .reason",
                _ => "#list tbody tr",
            };
            browser
                .until(&format!("document.querySelector('{ready}') !== null"))
                .await;
            browser
                .until(&format!("document.documentElement.scrollWidth <= {width}"))
                .await;
            let place = if width > 1000 { "wide" } else { "narrow" };
            if place == "narrow" {
                // A label without a value would be shown alone.
                browser
                    .until("[...document.querySelectorAll('#list td:empty')].every((cell) => cell.offsetParent === null)")
                    .await;
            }
            let picture = match (name, place, scheme) {
                ("reason", "wide", "light") => "console-light",
                ("event", "wide", "dark") => "console-dark",
                ("failed", "narrow", "light") => "console-narrow",
                ("reason", "narrow", "dark") => "console-narrow-dark",
                _ => continue,
            };
            browser.picture(picture).await;
        }
    }
    browser.has_no_errors().await;
    browser.stop().await;
}

/// Places orders and writes events, some of which can never be sent. For pictures, this takes five
/// minutes, so that the charts have a history. Returns the number of failed events.
async fn produce_activity(system: &System) -> usize {
    // Three events of each period fail.
    let (rounds, period, pause) = if Browser::takes_pictures() {
        (600, 60, Duration::from_millis(500))
    } else {
        (40, 10, Duration::ZERO)
    };
    let mut failed = 0;
    for n in 1..=rounds {
        tokio::time::sleep(pause).await;
        // More in some minutes than in others.
        for _ in 0..=(n / 50 % 3) {
            system.order().await;
        }
        let (event_type, payload) = match n % period {
            3 => ("order.placed", "{\"total\": 12,}"),
            6 => ("invoice.sent", "{}"),
            9 => ("order.placed", "\"\u{FFFE}\""),
            _ => continue,
        };
        failed += 1;
        system
            .event(&format!("order-{n:04}"), event_type, payload)
            .await;
    }
    failed
}
