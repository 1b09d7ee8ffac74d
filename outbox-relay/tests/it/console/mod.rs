//! The console's HTTP interface as the page uses it, with and without a token.

mod access;
mod actions;
mod bad_input;
mod dead_letters;
mod large_outbox;
mod live_updates;
mod unavailable_tables;

use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use test_support::Service;

use crate::support::{DEADLINE, Item, Stage, event, text};

const TOKEN: &str = "s3cret-of-this-relay";

/// Relay with a console, and an HTTP client in place of a browser.
struct Console {
    stage: Stage,
    relay: Service,
    http: reqwest::Client,
    token: Option<&'static str>,
}

impl Console {
    /// Starts a relay on loopback, without a token.
    async fn open(environment: &[(&str, &str)]) -> Self {
        Self::on(Stage::new().await, environment, None).await
    }

    async fn with_token() -> Self {
        let environment = [("RELAY_ADMIN_TOKEN", TOKEN)];
        Self::on(Stage::new().await, &environment, Some(TOKEN)).await
    }

    async fn on(stage: Stage, environment: &[(&str, &str)], token: Option<&'static str>) -> Self {
        let quick = [
            ("RELAY_SWEEP_INTERVAL", "200ms"),
            ("RELAY_SWEEP_AFTER", "100ms"),
        ];
        let environment: Vec<_> = quick.iter().chain(environment).copied().collect();
        Self {
            relay: stage.relay(&environment).await,
            stage,
            http: reqwest::Client::new(),
            token,
        }
    }

    /// Adds the token to a request, if there is one.
    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        match self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn get(&self, path: &str) -> Response {
        let request = self.http.get(self.relay.url(path));
        self.authorized(request).send().await.unwrap()
    }

    async fn post(&self, path: &str, body: &Value) -> Response {
        let request = self.http.post(self.relay.url(path)).json(body);
        self.authorized(request).send().await.unwrap()
    }

    async fn json(&self, path: &str) -> Value {
        let response = self.get(path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.json().await.unwrap()
    }

    /// Connects a viewer.
    async fn live(&self) -> LiveUpdates {
        let response = self.get("/api/live").await;
        assert_eq!(response.status(), StatusCode::OK);
        LiveUpdates::new(response)
    }
}

/// Live updates of a viewer: a stream of server-sent events.
struct LiveUpdates {
    response: Response,
    text: String,
}

impl LiveUpdates {
    fn new(response: Response) -> Self {
        Self {
            response,
            text: String::new(),
        }
    }

    /// Returns the name and the data of the next update.
    async fn next(&mut self) -> (String, Value) {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let part = |prefix: &str| event.lines().find_map(|line| line.strip_prefix(prefix));
                let name = part("event: ").unwrap().to_owned();
                let data = serde_json::from_str(part("data: ").unwrap()).unwrap();
                self.text = rest.to_owned();
                return (name, data);
            }
            let chunk = self
                .response
                .chunk()
                .await
                .unwrap()
                .expect("live updates do not end");
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// Waits for an update called `name` that matches, and returns its data.
    async fn until(&mut self, name: &str, matches: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let found = tokio::time::timeout(DEADLINE, async {
            loop {
                let (received, data) = self.next().await;
                if received == name {
                    if matches(&data) {
                        return data;
                    }
                    last = data;
                }
            }
        });
        match found.await {
            Ok(data) => data,
            Err(_) => panic!("no update {name} matches; the last was {last}"),
        }
    }
}

/// Returns the key of an event as the API expects it.
fn key(aggregate_id: &str, sequence: u64) -> Value {
    json!({ "aggregate_id": aggregate_id, "sequence": sequence.to_string() })
}

/// Returns a quarantined event.
fn failed(aggregate_id: &str, sequence: u64, reason: &str) -> Item {
    let mut item = event(aggregate_id, sequence);
    let at = outbox::timestamp::Timestamp::now();
    for (attribute, value) in [
        ("status", "FAILED".to_owned()),
        ("state_bucket", "FAILED".to_owned()),
        ("failure", reason.to_owned()),
        ("failed_at", at.to_string()),
    ] {
        item.insert(attribute.to_owned(), text(value));
    }
    item
}

/// Returns the detail of a problem document.
async fn detail(response: Response) -> String {
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json",
        "{response:?}"
    );
    let body: Value = response.json().await.unwrap();
    body["detail"].as_str().unwrap().to_owned()
}
