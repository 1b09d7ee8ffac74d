//! The consoles of two relays while one dies or hangs.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::browser::Browser;
use crate::system::System;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs chromium and chromium-driver"]
async fn a_killed_relay_shows_as_unhealthy_and_its_shards_move() {
    let system = System::start().await;
    let mut first = system.relay("relay-1", &[]).await;
    let own = Browser::start().await;
    own.page.goto(first.url("/#view=shards")).await.unwrap();
    own.until_text("#list", "alive").await;
    let second = system.relay("relay-2", &[]).await;
    let other = Browser::start().await;
    other.page.goto(second.url("/#view=shards")).await.unwrap();
    other.until_text("#health", "Healthy").await;
    other.until_text("#list tbody tr", "relay-1").await;

    first.kill().await.unwrap();
    own.until_text("#health", "No response").await;
    own.until_text("#problems", "the data shown is from").await;
    own.picture("console-killed").await;
    other.until_text("#list tbody tr", "relay-2").await;
    other.until_text("#list tbody tr", "alive").await;
    other.until_text("#health", "Healthy").await;

    // Events are published again, and the page of the restarted relay reconnects.
    let order = system.order().await;
    other.click("[data-view=published]").await;
    other.until_text("#list", &order).await;
    let listen = first.address().to_string();
    let _again = system
        .relay("relay-1", &[("RELAY_ADMIN_LISTEN", &listen)])
        .await;
    own.until_text("#health", "Healthy").await;
    for browser in [own, other] {
        browser.has_no_errors().await;
        browser.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs chromium and chromium-driver"]
async fn a_hanging_relay_is_not_shown_as_idle() {
    let system = System::start().await;
    let relay = system.relay("relay-1", &[]).await;
    let browser = Browser::start().await;
    browser.page.goto(relay.url("/")).await.unwrap();
    browser.until_text("#health", "Healthy").await;
    let pid = Pid::from_raw(i32::try_from(relay.pid().unwrap()).unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    browser
        .until_text("#problems", "the relay sent no update for")
        .await;
    kill(pid, Signal::SIGCONT).unwrap();
    browser.until_text("#health", "Healthy").await;
    browser.has_no_errors().await;
    browser.stop().await;
}
