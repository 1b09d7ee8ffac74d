//! Thousands of orders through all processes: each is processed once, each event is published, and
//! the stock is conserved.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use test_support::{Service, eventually};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::{Order, Stack, post_order};

const CONNECTIONS: usize = 32;
const PATIENCE: Duration = Duration::from_secs(60);

/// Posts the orders `from..to` over one connection for each client; `posted` counts the responses.
async fn post(api: String, from: usize, to: usize, posted: watch::Sender<usize>) -> Vec<Order> {
    let next = Arc::new(AtomicUsize::new(from));
    let mut connections = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (api, next, posted) = (api.clone(), Arc::clone(&next), posted.clone());
        connections.spawn(async move {
            // A separate client has a separate connection.
            let http = reqwest::Client::new();
            let mut orders = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= to {
                    return orders;
                }
                orders.push(post_order(&http, &api, n).await);
                posted.send_modify(|posted| *posted += 1);
            }
        });
    }
    connections.join_all().await.concat()
}

async fn everything_is_settled(stack: &Stack, orders: &[Order], services: &[&Service]) {
    let settled = eventually(PATIENCE, || async {
        let created = stack.without_status("orders", "PROCESSED").await;
        let pending = stack.without_status("outbox", "PUBLISHED").await;
        if created == 0 && pending == 0 {
            Ok(())
        } else {
            Err(format!(
                "{created} orders are not processed, {pending} events not published"
            ))
        }
    });
    if let Err(reason) = settled.await {
        let logs: Vec<_> = services.iter().map(|service| service.log()).collect();
        panic!("{reason}\n{}", logs.join("\n"));
    }

    let stored = stack.scan("orders").await;
    assert_eq!(stored.len(), orders.len());
    let events = stack.scan("outbox").await;
    assert_eq!(events.len(), orders.len());
    for event in events {
        assert_eq!(event["status"].as_s().unwrap(), "PUBLISHED");
        assert!(!event["message_id"].as_s().unwrap().is_empty());
        event["expires_at"].as_n().unwrap().parse::<u64>().unwrap();
        assert!(!event.contains_key("state_bucket"), "{event:?}");
    }

    let mut ordered: HashMap<&str, u64> = HashMap::new();
    for order in orders {
        *ordered.entry(&order.sku).or_default() += order.quantity;
    }
    for shelf in stack.scan("inventory").await {
        let sku = shelf["sku"].as_s().unwrap();
        let count = |name: &str| shelf[name].as_n().unwrap().parse::<u64>().unwrap();
        assert_eq!(count("reserved"), ordered[sku.as_str()], "{sku}");
        assert_eq!(count("available") + count("reserved"), 1_000_000, "{sku}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_orders_have_their_effect_once_despite_a_relay_kill() {
    let stack = Stack::start(&[]).await;
    let api = stack.service("order-api").await;
    let worker = stack.service("inventory-worker").await;
    let mut relay = stack.service("outbox-relay").await;

    let (posted, _) = watch::channel(0);
    let mut orders = post(api.url(""), 0, 2_000, posted).await;
    assert_eq!(orders.len(), 2_000);
    everything_is_settled(&stack, &orders, &[&api, &relay, &worker]).await;

    for round in 0..10 {
        let first = 2_000 + round * 50;
        let (posted, mut count) = watch::channel(0);
        let posting = tokio::spawn(post(api.url(""), first, first + 50, posted));
        // At this time some events are read, some sent and some marked.
        count.wait_for(|count| *count >= 25).await.unwrap();
        relay.kill().await.unwrap();
        relay = stack.service("outbox-relay").await;
        orders.extend(posting.await.unwrap());
    }
    assert_eq!(orders.len(), 2_500);
    everything_is_settled(&stack, &orders, &[&api, &relay, &worker]).await;
    for mut service in [api, relay, worker] {
        let status = service.terminate().await.unwrap();
        assert_eq!(status.code(), Some(0), "{}", service.log());
    }
}
