//! Counts the AWS requests per order on which the cost estimate in docs/operations.md is based.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use test_support::{Count, PATIENCE, Proxy, Service, eventually};
use tokio::task::JoinSet;

use crate::support::{Stack, order_body};

const ORDERS: usize = 1_000;
const CONNECTIONS: usize = 16;

/// Time over which idle programs are observed; long enough for requests every few seconds.
const WATCHED: Duration = Duration::from_secs(5);

struct Counted {
    service: Service,
    dynamodb: Proxy,
    sqs: Proxy,
}

impl Counted {
    async fn start(stack: &Stack, name: &str) -> Self {
        let dynamodb = Proxy::start(stack.cloud.dynamodb_url()).await.unwrap();
        let sqs = Proxy::start(stack.cloud.sqs_url()).await.unwrap();
        let environment = [
            ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url()),
            ("AWS_ENDPOINT_URL_DYNAMODB_STREAMS", dynamodb.url()),
            ("AWS_ENDPOINT_URL_SQS", sqs.url()),
        ];
        Self {
            service: stack.service_with(name, &environment).await,
            dynamodb,
            sqs,
        }
    }

    fn requests(&self) -> Requests {
        let mut requests = self.dynamodb.counts();
        requests.extend(self.sqs.counts());
        Requests(requests)
    }
}

/// Requests by operation.
#[derive(Debug)]
struct Requests(BTreeMap<String, Count>);

impl Requests {
    fn of(&self, operation: &str) -> Count {
        self.0.get(operation).copied().unwrap_or_default()
    }

    /// Asserts one entry for each order, in requests of at most `most` entries.
    fn check_batches(&self, operation: &str, most: usize) {
        let count = self.of(operation);
        assert_eq!(count.entries, ORDERS, "{operation} {self:?}");
        let bounds = ORDERS / most..=ORDERS;
        assert!(bounds.contains(&count.requests), "{operation} {self:?}");
        let size = count.entries as f64 / count.requests as f64;
        println!("{operation}: {size:.1} of {most} in a request");
    }

    /// Returns the number of requests per second of an idle program.
    fn rate(&self, operation: &str, before: &Self) -> f64 {
        let requests = self.of(operation).requests - before.of(operation).requests;
        requests as f64 / WATCHED.as_secs_f64()
    }
}

async fn post_all(api: &str) {
    let mut connections = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let url = format!("{api}/orders");
        connections.spawn(async move {
            let http = reqwest::Client::new();
            for n in (connection..ORDERS).step_by(CONNECTIONS) {
                let order = http.post(&url).json(&order_body(n));
                let order = order.header("idempotency-key", format!("key-{n}"));
                assert_eq!(order.send().await.unwrap().status(), 201);
            }
        });
    }
    connections.join_all().await;
}

/// Waits until the relay has owned the shard for longer than a lease duration. Until then it looks
/// up whether an earlier owner has sent the events that it reads.
async fn owned_for_a_lease(relay: &Counted) {
    // Two reads are up to 200 ms apart.
    let enough = 20;
    let read = eventually(PATIENCE, || async {
        let reads = relay.requests().of("GetRecords").requests;
        if reads < enough { Err(reads) } else { Ok(()) }
    });
    read.await.unwrap();
}

async fn settled(stack: &Stack) {
    let settled = eventually(PATIENCE, || async {
        let orders = stack.without_status("orders", "PROCESSED").await;
        let events = stack.without_status("outbox", "PUBLISHED").await;
        if (orders, events) == (0, 0) {
            Ok(())
        } else {
            Err((orders, events))
        }
    });
    settled.await.unwrap();
}

/// Returns the size of an item as DynamoDB counts it: names and values. These tables contain
/// strings, numbers, and lists and maps of these.
fn size(item: &HashMap<String, AttributeValue>) -> usize {
    fn of_value(value: &AttributeValue) -> usize {
        match value {
            AttributeValue::S(text) => text.len(),
            // One byte for two digits, and one more.
            AttributeValue::N(number) => number.len().div_ceil(2) + 1,
            AttributeValue::L(list) => 3 + list.iter().map(|v| 1 + of_value(v)).sum::<usize>(),
            AttributeValue::M(map) => 3 + map.len() + size(map),
            other => panic!("{other:?}"),
        }
    }
    item.iter()
        .map(|(name, value)| name.len() + of_value(value))
        .sum()
}

#[tokio::test]
async fn an_order_costs_the_requests_stated_in_the_runbook() {
    let stack = Stack::start(&[
        ("RELAY_LEASE_DURATION", "1s"),
        ("ORDER_API_UNSCOPED_KEYS", "ignore"),
    ])
    .await;
    // Each conflict costs a further request.
    let fidelity = stack.cloud.fidelity();
    fidelity.update(|fidelity| fidelity.transaction_time = None);
    let api = Counted::start(&stack, "order-api").await;
    let relay = Counted::start(&stack, "outbox-relay").await;
    let worker = Counted::start(&stack, "inventory-worker").await;
    owned_for_a_lease(&relay).await;
    post_all(&api.service.url("")).await;
    settled(&stack).await;

    // Order, event and key in one transaction, and no other request.
    let requests = api.requests();
    let transactions = requests.of("TransactWriteItems");
    assert_eq!(transactions.requests, ORDERS);
    assert_eq!(transactions.entries, 3 * ORDERS);
    assert_eq!(requests.0.len(), 1, "{requests:?}");

    let requests = relay.requests();
    requests.check_batches("SendMessageBatch", 10);
    requests.check_batches("BatchExecuteStatement", 25);
    // New events are sent without a table look-up.
    assert_eq!(requests.of("BatchGetItem").requests, 0, "{requests:?}");

    // Orders and stock in one transaction; deletes come after it.
    let deleted = eventually(PATIENCE, || async {
        let requests = worker.requests();
        let deletes = requests.of("DeleteMessageBatch");
        if deletes.entries < ORDERS {
            Err(deletes)
        } else {
            Ok(requests)
        }
    });
    let requests = deleted.await.unwrap();
    // Orders that wait for one SKU are in one transaction. At the start there is a probe.
    let transactions = requests.of("TransactWriteItems");
    assert!(
        (ORDERS / 50..=ORDERS + 1).contains(&transactions.requests),
        "{requests:?}"
    );
    assert!(
        (ORDERS..=2 * ORDERS + 2).contains(&transactions.entries),
        "{requests:?}"
    );
    println!("TransactWriteItems: {transactions:?}");
    requests.check_batches("DeleteMessageBatch", 10);
    let receives = requests.of("ReceiveMessage").requests;
    assert!(
        (ORDERS / 10..=ORDERS + 10).contains(&receives),
        "{requests:?}"
    );

    // So each write of one of them costs one unit.
    for table in ["orders", "outbox", "idempotency_keys", "inventory"] {
        let items = stack.scan(table).await;
        let largest = items.iter().map(size).max().unwrap();
        println!("{table}: {largest} bytes");
        assert!(largest <= 1024, "{table}: {largest}");
    }
    idle(&relay, &worker).await;
}

/// Counts the requests of idle programs.
async fn idle(relay: &Counted, worker: &Counted) {
    let before = (relay.requests(), worker.requests());
    // A measurement over time, not a wait for a condition.
    tokio::time::sleep(WATCHED).await;
    for (operation, most) in [
        ("GetRecords", 5.5),
        // Reads of the leases in two partitions, at most four times per lease duration.
        ("Query", 10.0),
        // Renewals of ten leases, three times per lease duration: a shard, eight sweepers and the
        // maintenance lease; and eight heartbeats of the instance.
        ("UpdateItem", 43.0),
        ("SendMessageBatch", 0.0),
        ("BatchExecuteStatement", 0.0),
    ] {
        let rate = relay.requests().rate(operation, &before.0);
        println!("{operation}: {rate:.1} a second when idle");
        assert!(rate <= most, "{operation}: {rate}");
    }
    for (operation, most) in [("ReceiveMessage", 0.5), ("GetQueueAttributes", 0.5)] {
        let rate = worker.requests().rate(operation, &before.1);
        println!("{operation}: {rate:.1} a second when idle");
        assert!(rate <= most, "{operation}: {rate}");
    }
}
