//! The clients: people who place orders, with and without an `Idempotency-Key`,
//! and who do what clients do when they get no answer.

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

/// A client waits this long for one answer: longer than the API works on a
/// request.
const ANSWER_WITHIN: Duration = Duration::from_secs(12);

/// Clients at once. Those that come while there are so many go away again, so
/// that a long outage does not end in a stampede.
const MAX_CLIENTS: usize = 1_000;

/// How a client with a key tries again: for minutes, so that it learns what
/// became of its order in the end.
const RETRY: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_secs(2))
    .with_max_times(100);

/// A SKU that nobody stocks.
const UNKNOWN_SKU: &str = "UNKNOWN-1";

/// All clients of a run.
#[derive(Clone, Debug)]
pub(super) struct OrderWorkload {
    http: reqwest::Client,
    url: String,
    recorder: Arc<Recorder>,
    seed: u64,
    /// From then on no client tries again.
    pub(super) give_up: CancellationToken,
}

/// One order that a client wants.
struct Wish {
    customer_id: String,
    key: Option<String>,
    lines: Vec<OrderLine>,
    manner: Manner,
}

/// What a client with a key does.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// Tries until it is answered.
    Patient,
    /// Goes away after the first error.
    GivesUp,
    /// Sends everything twice at once.
    Twice,
    /// Asks again after it was answered.
    AsksAgain,
}

/// What an answer means to a client.
enum Answered {
    Settled,
    TryAgain,
}

impl OrderWorkload {
    /// Clients of the API at `url`.
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

    /// Places `rate` orders a second until `stop`, and then lets the clients
    /// that are still trying finish, for as long as `patience`. Answers under
    /// way then are still waited for.
    pub(super) async fn run(self, rate: u32, stop: CancellationToken, patience: Duration) {
        let mut clients = JoinSet::new();
        let mut due = tokio::time::interval(Duration::from_secs(1) / rate);
        // A busy machine may be late; what was asked for is a rate.
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
                let wish = self.wish(number);
                clients.spawn(self.clone().place(wish));
            }
        }
        let mut rest = pin!(async { while clients.join_next().await.is_some() {} });
        if tokio::time::timeout(patience, &mut rest).await.is_err() {
            tracing::warn!("clients still have no answer");
            self.give_up.cancel();
            rest.await;
        }
    }

    /// The `number`-th order: it follows from the seed alone.
    fn wish(&self, number: u64) -> Wish {
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
        Wish {
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

    async fn place(self, wish: Wish) {
        match wish.manner {
            Manner::GivesUp => {
                self.post(&wish).await;
            }
            Manner::Patient => self.insist(&wish).await,
            Manner::Twice => {
                tokio::join!(self.insist(&wish), self.insist(&wish));
            }
            Manner::AsksAgain => {
                self.insist(&wish).await;
                self.insist(&wish).await;
            }
        }
    }

    async fn insist(&self, wish: &Wish) {
        let mut pauses = RETRY.build();
        while let Answered::TryAgain = self.post(wish).await {
            let Some(pause) = pauses.next() else { return };
            let rested = self.give_up.run_until_cancelled(tokio::time::sleep(pause));
            if rested.await.is_none() {
                return;
            }
        }
    }

    async fn post(&self, wish: &Wish) -> Answered {
        let at = self.recorder.now();
        let began = Instant::now();
        let (status, order_id, replayed) = match self.ask(wish).await {
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
                key: wish.key.clone(),
                customer_id: wish.customer_id.clone(),
                lines: wish.lines.clone(),
                status: status.map(|status| status.as_u16()),
                order_id,
                replayed,
            });
        });
        answered
    }

    /// Status, the order's id if it is a 201, and whether it is a replay. An
    /// answer that breaks off is none.
    async fn ask(&self, wish: &Wish) -> reqwest::Result<(StatusCode, Option<String>, bool)> {
        let items: Vec<_> = wish
            .lines
            .iter()
            .map(|line| {
                json!({"sku": line.sku, "quantity": line.quantity, "unit_price_minor": 1999})
            })
            .collect();
        let mut request = self.http.post(&self.url).json(&json!({
            "customer_id": wish.customer_id,
            "currency": "EUR",
            "items": items,
        }));
        if let Some(key) = &wish.key {
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
    fn the_orders_follow_from_the_seed() {
        let recorder = Arc::new(Recorder::new(Settings::default()));
        let load = |seed| OrderWorkload::new(String::new(), Arc::clone(&recorder), seed).unwrap();
        let lines = |seed| -> Vec<_> {
            let load = load(seed);
            (1..100).map(|number| load.wish(number).lines).collect()
        };
        assert_eq!(lines(1), lines(1));
        assert_ne!(lines(1), lines(2));
    }

    #[test]
    fn every_manner_of_client_is_there_and_no_sku_comes_twice() {
        let recorder = Arc::new(Recorder::new(Settings::default()));
        let load = OrderWorkload::new(String::new(), recorder, 1).unwrap();
        let wishes: Vec<_> = (1..1_000).map(|number| load.wish(number)).collect();
        for manner in [
            Manner::Patient,
            Manner::GivesUp,
            Manner::Twice,
            Manner::AsksAgain,
        ] {
            let found = wishes
                .iter()
                .any(|wish| wish.key.is_some() && wish.manner == manner);
            assert!(found);
        }
        assert!(wishes.iter().any(|wish| wish.key.is_none()));
        for wish in wishes {
            let mut skus: Vec<_> = wish.lines.iter().map(|line| &line.sku).collect();
            skus.sort();
            skus.dedup();
            assert_eq!(skus.len(), wish.lines.len());
        }
    }
}
