//! Tokens of the console in a browser: signing in and out, and what a token permits.

use thirtyfour::Key;

use crate::browser::Browser;
use crate::system::System;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs chromium and chromium-driver"]
async fn the_token_is_requested_kept_for_the_tab_and_cleared() {
    let system = System::start().await;
    let relay = system
        .relay("relay-1", &[("RELAY_ADMIN_TOKEN", "s3cret")])
        .await;
    let browser = Browser::start().await;
    browser.page.goto(relay.url("/")).await.unwrap();
    browser.until_text("#health", "Not signed in").await;
    browser.until("document.activeElement.id === 'token'").await;
    browser.keys("wrong".to_owned() + Key::Enter).await;
    browser
        .until_text("#sign-in-error", "the token is wrong")
        .await;
    browser.keys("s3cret".to_owned() + Key::Enter).await;
    browser.until_text("#health", "Healthy").await;
    browser.page.refresh().await.unwrap();
    browser.until_text("#health", "Healthy").await;
    browser.click("#sign-out").await;
    browser.until_text("#health", "Not signed in").await;
    browser
        .until("document.getElementById('content').hidden")
        .await;
    browser.has_no_errors().await;
    browser.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs chromium and chromium-driver"]
async fn a_token_that_permits_reading_only_shows_no_actions() {
    let system = System::start().await;
    let tokens = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(tokens.path(), "ann to-operate\nbob to-read read\n").unwrap();
    let path = tokens.path().to_str().unwrap();
    let relay = system
        .relay("relay-1", &[("RELAY_ADMIN_TOKEN_FILE", path)])
        .await;
    system.event("order-7", "order.placed", "{oops").await;
    let browser = Browser::start().await;
    browser.page.goto(relay.url("/")).await.unwrap();
    for (token, operates) in [("to-read", false), ("to-operate", true)] {
        browser.until("document.activeElement.id === 'token'").await;
        browser.keys(token.to_owned() + Key::Enter).await;
        browser.until_text("#health", "Needs attention").await;
        browser
            .run("location.hash = 'view=failed&id=order-7&sequence=1';")
            .await;
        browser.until_text("#detail .summary", "FAILED").await;
        for action in ["#retry", "#discard", "footer [data-operate]"] {
            browser
                .until(&format!(
                    "(document.querySelector('{action}')?.checkVisibility() ?? false) === {operates}"
                ))
                .await;
        }
        browser.run("document.activeElement.blur();").await;
        browser.keys("r").await;
        browser
            .until(&format!(
                "document.getElementById('dialog').open === {operates}"
            ))
            .await;
        browser.keys(Key::Escape).await;
        browser.click("#sign-out").await;
    }
    browser.has_no_errors().await;
    browser.stop().await;
}
