//! The view of dead letters.

use thirtyfour::Key;

use crate::browser::Browser;
use crate::system::System;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs chromium and chromium-driver"]
async fn dead_letters_are_shown_redriven_and_discarded() {
    let system = System::start().await;
    let relay = system.relay("relay-1", &[]).await;
    // The worker deletes it: it does not handle the type.
    let event = r#"{"specversion":"1.0","id":"e-1","type":"order.paid","subject":"o-1"}"#;
    system.dead_letter(event).await;
    let markup = "<script>window.ran=1</script>";
    let second = event.replace("e-1", markup).replace("o-1", markup);
    system.dead_letter(&second).await;

    let browser = Browser::start().await;
    browser.page.goto(relay.url("/")).await.unwrap();
    browser.until_text("#health", "Healthy").await;
    browser.keys("5").await;
    browser.until_text("#list", "e-1").await;
    browser.until_text("#list", markup).await;
    browser.until_text("#list", "order-events").await;
    browser
        .until("document.querySelector('#list td.c-text a').href === 'http://localhost:16686/trace/0af7651916cd43dd8448eb211c80319c'")
        .await;
    browser.picture("dead-letters").await;

    let row = |id: &str| {
        format!(
            "[...document.querySelectorAll('#list tbody tr')].find((row) => row.innerText.includes('{id}'))"
        )
    };
    let click = |id: &str, action: &str| {
        format!(
            "{}.querySelector('[data-action={action}]').click();",
            row(id)
        )
    };
    browser.run(&click("e-1", "redrive")).await;
    browser
        .until("document.getElementById('dialog').open")
        .await;
    browser.until_text("#dialog-text", "order-events").await;
    browser.keys(Key::Escape).await;
    browser
        .until("!document.getElementById('dialog').open")
        .await;
    browser.until_text("#list", "e-1").await;
    browser.run(&click("e-1", "redrive")).await;
    browser.click("#dialog-yes").await;
    browser.until(&format!("!{}", row("e-1"))).await;
    browser.until_text("#list", markup).await;

    browser.run(&click("script", "discard")).await;
    browser.click("#dialog-yes").await;
    browser.until_text("#empty", "are empty").await;
    browser.until("window.ran === undefined").await;
    browser.has_no_errors().await;
    browser.stop().await;
}
