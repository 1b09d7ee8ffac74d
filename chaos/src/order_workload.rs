//! The clients of the API: they place orders with and without an `Idempotency-Key`, and retry as
//! real clients do.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::backend::SCARCE_SKU;
use super::history::{OrderLine, Post};
use super::recorder::{Recorder, millis};

/// Time limit for one response; longer than the request timeout of the API.
const ANSWER_WITHIN: Duration = Duration::from_secs(12);

/// Maximum number of concurrent clients. Further clients give up immediately, so that a long outage
/// does not end in a stampede.
const MAX_CLIENTS: usize = 1_000;

/// Retry policy of a client with a key: it retries for minutes, so that it learns the outcome of
/// its order.
const RETRY: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_secs(2))
    .with_max_times(100);

/// A SKU without stock.
const UNKNOWN_SKU: &str = "UNKNOWN-1";

/// All clients of a run.
#[derive(Clone, Debug)]
pub(super) struct OrderWorkload {
    http: reqwest::Client,
    url: String,
    recorder: Arc<Recorder>,
    seed: u64,
    /// Cancelled when clients must stop retrying.
    pub(super) give_up: CancellationToken,
}

/// One order to be placed.
struct NewOrder {
    customer_id: String,
    key: Option<String>,
    lines: Vec<OrderLine>,
    manner: Manner,
}

/// Behaviour of a client with a key.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// Retries until it receives a response.
    Patient,
    /// Gives up after the first error.
    GivesUp,
    /// Sends every request twice at the same time.
    Twice,
    /// Repeats the request after it received a response.
    AsksAgain,
}

/// Meaning of a response to a client.
enum Answered {
    Settled,
    TryAgain,
}

impl OrderWorkload {
    /// Creates the clients of the API at `url`.
    pub(super) fn new(url: String, recorder: Arc<Recorder>, seed: u64) -> reqwest::Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(ANSWER_WITHIN)
            .tcp_nodelay(true)
            .no_proxy()
            .build()?;
        Ok(Self {
            http,
            url: format!("{url}/orders"),
            recorder,
            seed,
            give_up: CancellationToken::new(),
        })
    }

    /// Places `rate` orders per second until `stop`, then waits at most `patience` for the clients
    /// that still retry. Responses that are outstanding by then are still awaited.
    pub(super) async fn run(self, rate: u32, stop: CancellationToken, patience: Duration) {
        let mut clients = JoinSet::new();
        let mut due = tokio::time::interval(Duration::from_secs(1) / rate);
        // Late ticks are made up for: the rate is an average.
        due.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut number = 0;
        loop {
            tokio::select! {
                _ = due.tick() => {}
                () = stop.cancelled() => break,
            }
            while clients.try_join_next().is_some() {}
            number += 1;
            if clients.len() < MAX_CLIENTS {
                let order = self.order(number);
                clients.spawn(self.clone().place(order));
            }
        }
        let mut rest = pin!(async { while clients.join_next().await.is_some() {} });
        if tokio::time::timeout(patience, &mut rest).await.is_err() {
            tracing::warn!("clients are still waiting for a response");
            self.give_up.cancel();
            rest.await;
        }
    }

    /// Returns the `number`-th order, which depends on the seed only.
    fn order(&self, number: u64) -> NewOrder {
        let mut random = fastrand::Rng::with_seed(self.seed.rotate_left(32) ^ number);
        let mut skus: Vec<_> = (1..=5).map(|n| format!("WIDGET-{n}")).collect();
        random.shuffle(&mut skus);
        skus.truncate(random.usize(1..=3));
        match random.u8(..100) {
            0 => skus.push(SCARCE_SKU.to_owned()),
            1 => skus.push(UNKNOWN_SKU.to_owned()),
            _ => {}
        }
        let line = |sku| OrderLine {
            sku,
            quantity: random.u64(1..=5),
        };
        let lines = skus.into_iter().map(line).collect();
        let has_key = random.u8(..10) < 7;
        NewOrder {
            customer_id: format!("c-{number}"),
            key: has_key.then(|| format!("key-{}-{number}", self.seed)),
            lines,
            manner: match random.u8(..20) {
                _ if !has_key => Manner::GivesUp,
                0 => Manner::GivesUp,
                1 => Manner::Twice,
                2 => Manner::AsksAgain,
                _ => Manner::Patient,
            },
        }
    }

    async fn place(self, order: NewOrder) {
        match order.manner {
            Manner::GivesUp => {
                self.post(&order).await;
            }
            Manner::Patient => self.retry_until_answered(&order).await,
            Manner::Twice => {
                tokio::join!(
                    self.retry_until_answered(&order),
                    self.retry_until_answered(&order)
                );
            }
            Manner::AsksAgain => {
                self.retry_until_answered(&order).await;
                self.retry_until_answered(&order).await;
            }
        }
    }

    async fn retry_until_answered(&self, order: &NewOrder) {
        let mut pauses = RETRY.build();
        while let Answered::TryAgain = self.post(order).await {
            let Some(pause) = pauses.next() else { return };
            let rested = self.give_up.run_until_cancelled(tokio::time::sleep(pause));
            if rested.await.is_none() {
                return;
            }
        }
    }

    async fn post(&self, order: &NewOrder) -> Answered {
        let at = self.recorder.now();
        let began = Instant::now();
        let (status, order_id, replayed) = match self.request(order).await {
            Ok((status, order_id, replayed)) => (Some(status), order_id, replayed),
            Err(_) => (None, None, false),
        };
        let answered = match status {
            Some(status) if status.is_server_error() => Answered::TryAgain,
            Some(_) => Answered::Settled,
            None => Answered::TryAgain,
        };
        self.recorder.write(|history| {
            history.posts.push(Post {
                at,
                took_ms: millis(began.elapsed()),
                key: order.key.clone(),
                customer_id: order.customer_id.clone(),
                lines: order.lines.clone(),
                status: status.map(|status| status.as_u16()),
                order_id,
                replayed,
            });
        });
        answered
    }

    /// Returns the status, the order id of a 201, and whether the response is a replay. An
    /// incomplete response is an error.
    async fn request(
        &self,
        order: &NewOrder,
    ) -> reqwest::Result<(StatusCode, Option<String>, bool)> {
        let items: Vec<_> = order
            .lines
            .iter()
            .map(|line| {
                json!({"sku": line.sku, "quantity": line.quantity, "unit_price_minor": 1999})
            })
            .collect();
        let mut request = self.http.post(&self.url).json(&json!({
            "customer_id": order.customer_id,
            "currency": "EUR",
            "items": items,
        }));
        if let Some(key) = &order.key {
            request = request.header("Idempotency-Key", key);
        }
        let answer = request.send().await?;
        let status = answer.status();
        let replayed = answer.headers().contains_key("idempotency-replayed");
        let body: Value = answer.json().await?;
        let order_id = body["order_id"].as_str().map(str::to_owned);
        Ok((status, order_id, replayed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Settings;

    #[test]
    fn orders_depend_on_the_seed_only() {
        let recorder = Arc::new(Recorder::new(Settings::default()));
        let load = |seed| OrderWorkload::new(String::new(), Arc::clone(&recorder), seed).unwrap();
        let lines = |seed| -> Vec<_> {
            let load = load(seed);
            (1..100).map(|number| load.order(number).lines).collect()
        };
        assert_eq!(lines(1), lines(1));
        assert_ne!(lines(1), lines(2));
    }

    #[test]
    fn every_client_behaviour_occurs_and_no_sku_repeats_in_an_order() {
        let recorder = Arc::new(Recorder::new(Settings::default()));
        let load = OrderWorkload::new(String::new(), recorder, 1).unwrap();
        let new_orders: Vec<_> = (1..1_000).map(|number| load.order(number)).collect();
        for manner in [
            Manner::Patient,
            Manner::GivesUp,
            Manner::Twice,
            Manner::AsksAgain,
        ] {
            let found = new_orders
                .iter()
                .any(|order| order.key.is_some() && order.manner == manner);
            assert!(found);
        }
        assert!(new_orders.iter().any(|order| order.key.is_none()));
        for order in new_orders {
            let mut skus: Vec<_> = order.lines.iter().map(|line| &line.sku).collect();
            skus.sort();
            skus.dedup();
            assert_eq!(skus.len(), order.lines.len());
        }
    }
}
