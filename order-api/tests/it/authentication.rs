//! API keys and bearer tokens: who may place and read which orders.

use std::time::Duration;

use jsonwebtoken::get_current_timestamp;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use test_support::eventually;

use crate::issuer::{AUDIENCE, ISSUER, Issuer, KeyServer};
use crate::support::{Answer, World, an_order};

const PATIENCE: Duration = Duration::from_secs(10);

/// Returns an order of `customer`.
fn order_of(customer: &str) -> Value {
    let mut order = an_order();
    order["customer_id"] = json!(customer);
    order
}

/// Returns the line of a key in the file of keys.
fn line(id: &str, key: &str, customer: &str) -> String {
    let hash = Sha256::digest(key);
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{id} {hash} {customer}\n")
}

/// Starts an API with the keys `one` of c-1, `two` of c-2 and `all` of every customer.
async fn with_keys() -> (World, NamedTempFile) {
    let file = NamedTempFile::new().unwrap();
    let keys = line("a", "one", "c-1") + &line("b", "two", "c-2") + &line("c", "all", "*");
    std::fs::write(file.path(), keys).unwrap();
    let path = file.path().to_str().unwrap();
    let world = World::with(&[("ORDER_API_KEYS_FILE", path)]).await;
    (world, file)
}

/// Starts an API that accepts the tokens of the keys at `location`.
async fn with_tokens(location: &str) -> World {
    World::with(&[
        ("ORDER_API_JWT_ISSUER", ISSUER),
        ("ORDER_API_JWT_AUDIENCE", AUDIENCE),
        ("ORDER_API_JWKS", location),
    ])
    .await
}

async fn place(world: &World, header: (&str, &str), customer: &str) -> Answer {
    world.post_with(&[header], &order_of(customer)).await
}

fn key(key: &str) -> (&str, &str) {
    ("x-api-key", key)
}

async fn read(world: &World, header: (&str, &str), location: &str) -> Answer {
    world
        .send(Method::GET, location, &[header], Vec::new())
        .await
}

#[tokio::test]
async fn requests_without_valid_credentials_are_401_without_an_effect() {
    let (world, _file) = with_keys().await;
    let answer = world.post(&order_of("c-1")).await;
    answer.assert_problem(401, "no-credentials");
    assert_eq!(answer.header("www-authenticate"), "ApiKey");
    for wrong in [
        &[key("three")][..],
        &[key("")],
        &[key("one"), key("one")],
        &[key("one"), ("authorization", "Bearer one")],
        &[("authorization", "Bearer one")],
        &[("authorization", "Basic b25lOg==")],
    ] {
        let answer = world.post_with(wrong, &order_of("c-1")).await;
        answer.assert_problem(401, "invalid-credentials");
    }
    let id = "/orders/0197f2f0-7b1c-7c3e-9d2a-3f1b5c7d9e0f";
    world.get(id).await.assert_problem(401, "no-credentials");
    assert_eq!(world.counts().await, [0, 0, 0]);

    // A body that is larger than what was read with the head does not hide the response.
    let large = format!("{}{}", order_of("c-1"), " ".repeat(60_000));
    let answer = world.post_text(&[key("three")], large).await;
    answer.assert_problem(401, "invalid-credentials");

    // Everything else is public.
    for path in ["/healthz", "/readyz", "/openapi.json", "/docs"] {
        assert_eq!(world.get(path).await.status, 200, "{path}");
    }
    assert_eq!(world.get("/nope").await.status, 404);
}

#[tokio::test]
async fn a_principal_places_and_reads_orders_of_its_own_customer() {
    let (world, _file) = with_keys().await;
    let created = place(&world, key("one"), "c-1").await;
    created.assert_created();
    assert_eq!(created.header("cache-control"), "no-store");
    let location = created.header("location");
    for (own, status) in [("one", 200), ("all", 200), ("two", 404)] {
        let answer = read(&world, key(own), location).await;
        assert_eq!(answer.status, status, "{own}");
        assert_eq!(answer.header("cache-control"), "no-store");
    }
    let other = read(&world, key("two"), location).await;
    let problem = other.assert_problem(404, "no-such-order");
    let absent = "/orders/0197f2f0-7b1c-7c3e-9d2a-3f1b5c7d9e0f";
    let missing = read(&world, key("two"), absent).await;
    let missing = missing.assert_problem(404, "no-such-order");
    assert_eq!(problem["detail"], missing["detail"], "they look the same");

    let answer = place(&world, key("one"), "c-2").await;
    answer.assert_problem(403, "other-customer");
    place(&world, key("all"), "c-2").await.assert_created();
    assert_eq!(world.counts().await, [2, 2, 0]);
}

#[tokio::test]
async fn idempotency_keys_of_customers_are_independent() {
    let (world, _file) = with_keys().await;
    let place = async |api_key: &str, customer: &str| {
        let headers = [key(api_key), ("idempotency-key", "1")];
        let answer = world.post_with(&headers, &order_of(customer)).await;
        (
            answer.assert_created()["order_id"].clone(),
            answer.replayed(),
        )
    };
    let (first, _) = place("one", "c-1").await;
    let (second, replayed) = place("two", "c-2").await;
    assert!(!replayed && first != second);
    assert_eq!(place("one", "c-1").await, (first.clone(), true));
    // The key belongs to the customer, whichever principal acts for it.
    assert_eq!(place("all", "c-1").await, (first, true));
    assert_eq!(world.counts().await, [2, 2, 2]);
}

#[tokio::test]
async fn the_file_of_keys_is_read_again_when_it_changes() {
    let (world, file) = with_keys().await;
    place(&world, key("one"), "c-1").await.assert_created();

    let keys = line("a", "new", "c-1");
    std::fs::write(file.path(), &keys).unwrap();
    let replaced = async || match place(&world, key("new"), "c-1").await.status.as_u16() {
        201 => Ok(()),
        status => Err(status),
    };
    eventually(PATIENCE, replaced).await.unwrap();
    let answer = place(&world, key("one"), "c-1").await;
    answer.assert_problem(401, "invalid-credentials");

    std::fs::write(file.path(), format!("{keys}b s3cret c-2\n")).unwrap();
    let logged = async || {
        let log = world.api.log();
        let line = log.lines().find(|line| line.contains("earlier ones stay"));
        line.map(str::to_owned).ok_or(log)
    };
    let error = eventually(PATIENCE, logged).await.unwrap();
    assert!(error.contains("line 2: the hash of `b` must be"), "{error}");
    assert!(!error.contains("s3cret"), "{error}");
    place(&world, key("new"), "c-1").await.assert_created();
}

#[tokio::test]
async fn a_token_of_the_issuer_identifies_a_customer() {
    let issuer = Issuer::new("k");
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), issuer.key_set()).unwrap();
    let world = with_tokens(file.path().to_str().unwrap()).await;
    let bearer = |token: &str| format!("Bearer {token}");

    let token = bearer(&issuer.token("c-1"));
    let created = place(&world, ("authorization", &token), "c-1").await;
    created.assert_created();
    let answer = place(&world, ("authorization", &token), "c-2").await;
    answer.assert_problem(403, "other-customer");
    let other = bearer(&issuer.token("c-2"));
    let answer = read(
        &world,
        ("authorization", &other),
        created.header("location"),
    )
    .await;
    answer.assert_problem(404, "no-such-order");
    let all = bearer(&issuer.token("*"));
    let answer = read(&world, ("authorization", &all), created.header("location")).await;
    assert_eq!(answer.status, 200);

    let past = json!(get_current_timestamp() - 60);
    let expired = issuer.token_with("c-1", |claims| claims["exp"] = past);
    let elsewhere = issuer.token_with("c-1", |claims| claims["aud"] = json!("billing"));
    let foreign = issuer.token_with("c-1", |claims| {
        claims["iss"] = json!("https://evil.example")
    });
    let forged = Issuer::new("k").token("c-1");
    let unknown_key = Issuer::new("other").token("c-1");
    let payload = issuer.token("c-1").split('.').nth(1).unwrap().to_owned();
    // `{"alg":"none","typ":"JWT"}`
    let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.");
    for (token, reason) in [
        (expired, "has expired"),
        (elsewhere, "another audience"),
        (foreign, "another issuer"),
        (forged, "signature that is not valid"),
        (unknown_key, "not the issuer's"),
        (unsigned, "not a signed JSON Web Token"),
        ("nonsense".to_owned(), "not a signed JSON Web Token"),
        ("x".repeat(20_000), "not a signed JSON Web Token"),
    ] {
        let answer = place(&world, ("authorization", &bearer(&token)), "c-1").await;
        let problem = answer.assert_problem(401, "invalid-credentials");
        assert!(
            problem["detail"].as_str().unwrap().contains(reason),
            "{problem}"
        );
        let challenge = answer.header("www-authenticate");
        assert_eq!(challenge, "Bearer error=\"invalid_token\"");
    }
    let nameless = issuer.token_with("c-1", |claims| claims["customer_id"] = json!(null));
    let answer = place(&world, ("authorization", &bearer(&nameless)), "c-1").await;
    answer.assert_problem(403, "no-customer");
    assert_eq!(world.counts().await, [1, 1, 0]);
}

#[tokio::test]
async fn keys_of_an_issuer_are_fetched_again_for_a_token_with_a_new_one() {
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    let server = KeyServer::start(Some(old.key_set())).await;
    let world = with_tokens(&server.url()).await;
    let place = async |issuer: &Issuer| {
        let token = format!("Bearer {}", issuer.token("c-1"));
        place(&world, ("authorization", &token), "c-1").await
    };
    place(&old).await.assert_created();
    server.serve(new.key_set());
    place(&new).await.assert_created();
    let answer = place(&old).await;
    answer.assert_problem(401, "invalid-credentials");
}

#[tokio::test]
async fn without_the_keys_of_the_issuer_tokens_are_503() {
    let issuer = Issuer::new("k");
    let server = KeyServer::start(None).await;
    let world = with_tokens(&server.url()).await;
    let ready = world.get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("token keys"), "{}", ready.body);

    let token = format!("Bearer {}", issuer.token("c-1"));
    let answer = place(&world, ("authorization", &token), "c-1").await;
    answer.assert_problem(503, "authentication-unavailable");
    assert_eq!(world.counts().await, [0, 0, 0]);
}
