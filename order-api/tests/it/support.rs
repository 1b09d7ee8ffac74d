//! An embedded DynamoDB, an `order-api` process on it, and requests to it.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use local_cloud::{Config, LocalCloud};
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use shared::provision::Table;
use test_support::{Fault, Proxy, Service};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_order-api");

pub(crate) const TRANSACT: &str = "TransactWriteItems";
pub(crate) const GET: &str = "GetItem";

pub(crate) type Item = HashMap<String, AttributeValue>;

/// An API process with its tables, behind a fault-injecting proxy.
pub(crate) struct World {
    pub(crate) api: Service,
    pub(crate) proxy: Proxy,
    pub(crate) dynamodb: aws_sdk_dynamodb::Client,
    environment: Vec<(String, String)>,
    http: reqwest::Client,
    /// The API's own OpenAPI document.
    pub(crate) document: Value,
    _cloud: LocalCloud,
}

/// A complete response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// Starts the API with further options, as environment variables.
    pub(crate) async fn with(options: &[(&str, &str)]) -> Self {
        let world = Self::without_tables(options).await;
        world.provision().await;
        world
    }

    pub(crate) async fn without_tables(options: &[(&str, &str)]) -> Self {
        let cloud = LocalCloud::start(Config::default()).await.unwrap();
        let proxy = Proxy::start(cloud.dynamodb_url()).await.unwrap();
        let environment: Vec<_> = cloud
            .env()
            .into_iter()
            .chain([
                ("ORDER_API_LISTEN", "127.0.0.1:0".to_owned()),
                ("ORDER_API_ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
                ("AWS_ENDPOINT_URL_DYNAMODB", proxy.url().to_owned()),
            ])
            .chain(
                options
                    .iter()
                    .map(|(name, value)| (*name, (*value).to_owned())),
            )
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        let api = Service::start(PROGRAM, &[], environment.clone())
            .await
            .unwrap();
        let http = reqwest::Client::new();
        let document = http.get(api.url("/openapi.json")).send().await.unwrap();
        Self {
            document: document.json().await.unwrap(),
            dynamodb: cloud.dynamodb_client(),
            _cloud: cloud,
            api,
            proxy,
            environment,
            http,
        }
    }

    /// Injects the fault of each named operation until the proxy heals.
    pub(crate) fn always<const N: usize>(&self, faults: [(&'static str, Fault); N]) {
        self.proxy.rule(move |call| {
            let mut faults = faults.iter();
            let found = faults.find(|(operation, _)| *operation == call.operation);
            found.map_or(Fault::Pass, |(_, fault)| fault.clone())
        });
    }

    pub(crate) async fn provision(&self) {
        let tables = [
            Table::orders("orders"),
            Table::outbox("outbox"),
            Table::idempotency_keys("idempotency_keys"),
        ];
        shared::provision::tables(&self.dynamodb, tables)
            .await
            .unwrap();
    }

    /// Returns the environment of the API with further options.
    pub(crate) fn environment_with(&self, options: &[(&str, &str)]) -> Vec<(String, String)> {
        let options = options
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.environment.iter().cloned().chain(options).collect()
    }

    /// Kills the API and starts it again on the same tables.
    pub(crate) async fn restart(&mut self) {
        self.api.kill().await.unwrap();
        self.api = Service::start(PROGRAM, &[], self.environment.clone())
            .await
            .unwrap();
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], Vec::new()).await
    }

    /// Sends a GET to the admin port.
    pub(crate) async fn admin_get(&self, path: &str) -> Answer {
        let answer = self.http.get(self.api.admin_url(path)).send().await;
        Answer::of(answer.unwrap()).await
    }

    pub(crate) async fn post(&self, body: &Value) -> Answer {
        self.post_with(&[], body).await
    }

    pub(crate) async fn post_with(&self, headers: &[(&str, &str)], body: &Value) -> Answer {
        self.post_text(headers, body.to_string()).await
    }

    pub(crate) async fn post_text(
        &self,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> Answer {
        let headers = [&[("content-type", "application/json")], headers].concat();
        self.send(Method::POST, "/orders", &headers, body.into())
            .await
    }

    /// Sends a request, and checks the response against the API's own document.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Answer {
        let mut request = self.http.request(method.clone(), self.api.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = Answer::of(request.body(body).send().await.unwrap()).await;
        self.assert_documented(&method, path, &answer);
        answer
    }

    fn assert_documented(&self, method: &Method, path: &str, answer: &Answer) {
        let path = match path.strip_prefix("/orders/") {
            Some(_) => "/orders/{id}",
            None => path,
        };
        let operation = &self.document["paths"][path][method.as_str().to_lowercase()];
        if operation.is_null() {
            return;
        }
        let response = &operation["responses"][answer.status.as_str()];
        assert!(!response.is_null(), "{method} {path} {}", answer.status);
        let media_type = answer.header("content-type").split(';').next().unwrap();
        assert!(
            !response["content"][media_type].is_null(),
            "{method} {path} {}: {media_type}",
            answer.status
        );
    }

    /// Returns all items of a table.
    pub(crate) async fn items(&self, table: &str) -> Vec<Item> {
        let scan = self.dynamodb.scan().table_name(table);
        let scan = scan.consistent_read(true).into_paginator().items();
        scan.send().collect::<Result<_, _>>().await.unwrap()
    }

    /// Returns the numbers of orders, events and keys.
    pub(crate) async fn counts(&self) -> [usize; 3] {
        [
            self.items("orders").await.len(),
            self.items("outbox").await.len(),
            self.items("idempotency_keys").await.len(),
        ]
    }
}

impl Answer {
    async fn of(answer: reqwest::Response) -> Self {
        Self {
            status: answer.status(),
            headers: answer.headers().clone(),
            body: answer.text().await.unwrap(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    /// Asserts a problem of this status and kind.
    #[track_caller]
    pub(crate) fn assert_problem(&self, status: u16, kind: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert_eq!(
            problem["type"],
            format!("urn:problem-type:order-api:{kind}"),
            "{self:?}"
        );
        assert!(problem["title"].is_string() && problem["detail"].is_string());
        // Health and metrics, which support one method each, are not traced.
        if kind != "method-not-allowed" {
            let trace_id = problem["trace_id"].as_str().unwrap_or_default();
            assert_eq!(trace_id.len(), 32, "{self:?}");
        }
        let retry_after = self.header("retry-after");
        match status {
            503 => assert!(["1", "2", "3"].contains(&retry_after), "{self:?}"),
            429 => assert_ne!(retry_after, ""),
            _ => assert_eq!(retry_after, ""),
        }
        for internal in ["dynamodb", "aws", "exception", "table", "src/", "panic"] {
            assert!(!self.body.to_lowercase().contains(internal), "{self:?}");
        }
        problem
    }

    /// Asserts a 422 and returns the invalid fields with their reasons.
    #[track_caller]
    pub(crate) fn offending(&self) -> Vec<(String, String)> {
        let problem = self.assert_problem(422, "invalid-order");
        let errors = problem["errors"].as_array().unwrap().iter();
        errors
            .map(|error| {
                let text = |name: &str| error[name].as_str().unwrap().to_owned();
                (text("pointer"), text("reason"))
            })
            .collect()
    }

    #[track_caller]
    pub(crate) fn assert_created(&self) -> Value {
        assert_eq!(self.status, 201, "{self:?}");
        assert_eq!(self.header("content-type"), "application/json");
        let order = self.json();
        let location = format!("/orders/{}", order["order_id"].as_str().unwrap());
        assert_eq!(self.header("location"), location);
        order
    }

    pub(crate) fn replayed(&self) -> bool {
        self.header("idempotency-replayed") == "true"
    }
}

/// Returns the order of the contract's example.
pub(crate) fn an_order() -> Value {
    json!({
        "customer_id": "c-1",
        "currency": "EUR",
        "items": [{"sku": "WIDGET-1", "quantity": 2, "unit_price_minor": 1999}],
    })
}

/// Sends bytes as they are, and returns everything until the connection ends.
pub(crate) async fn raw(world: &World, request: &[u8]) -> String {
    let stream = TcpStream::connect(world.api.address()).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let send = async {
        // The API may respond, and close the connection, before it has read everything.
        let _ = write.write_all(request).await;
        write
    };
    let receive = async {
        let mut answer = Vec::new();
        let _ = read.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    };
    tokio::join!(send, receive).1
}
