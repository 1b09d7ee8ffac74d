//! Rate limits: 429 with the time to wait, for one principal or address and for no other.

use reqwest::Method;
use tempfile::NamedTempFile;

use crate::support::{Answer, World, an_order};

/// SHA-256 of `one` and `two`.
const KEYS: &str = "\
    a 7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed c-1\n\
    b 3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3 c-1\n";

async fn read(world: &World, headers: &[(&str, &str)]) -> Answer {
    let path = "/orders/0197f2f0-7b1c-7c3e-9d2a-3f1b5c7d9e0f";
    world.send(Method::GET, path, headers, Vec::new()).await
}

/// Sends requests, the nth with the header `name` of `value(n)`, until one is rejected.
async fn exceed(world: &World, name: &str, value: impl Fn(usize) -> String) -> Answer {
    for n in 1..=100 {
        let answer = read(world, &[(name, &value(n))]).await;
        if answer.status == 429 {
            answer.assert_problem(429, "rate-limited");
            assert_eq!(answer.header("retry-after"), "1");
            return answer;
        }
    }
    panic!("no request was rejected");
}

#[tokio::test]
async fn a_principal_has_a_rate_of_its_own() {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), KEYS).unwrap();
    let world = World::with(&[
        ("ORDER_API_KEYS_FILE", file.path().to_str().unwrap()),
        ("ORDER_API_PRINCIPAL_RATE", "1"),
    ])
    .await;
    let answer = exceed(&world, "x-api-key", |_| "one".to_owned()).await;
    assert!(answer.body.contains("key or token"), "{}", answer.body);
    assert_eq!(read(&world, &[("x-api-key", "two")]).await.status, 404);
    // A client without a key cannot use up the rate of one.
    for _ in 0..10 {
        let answer = read(&world, &[("x-api-key", "wrong")]).await;
        answer.assert_problem(401, "invalid-credentials");
    }
    let order = world.post_with(&[("x-api-key", "one")], &an_order()).await;
    assert!([201, 429].contains(&order.status.as_u16()), "{order:?}");
}

#[tokio::test]
async fn an_address_has_a_rate_of_its_own() {
    let world = World::with(&[
        ("ORDER_API_ADDRESS_RATE", "1"),
        ("ORDER_API_TRUSTED_PROXIES", "127.0.0.0/8"),
    ])
    .await;
    let header = "x-forwarded-for";
    let answer = exceed(&world, header, |_| "192.0.2.1".to_owned()).await;
    assert!(answer.body.contains("address"), "{}", answer.body);
    let other = read(&world, &[(header, "192.0.2.2")]).await;
    assert_eq!(other.status, 404);
    // What the client itself sends stands before the address that the proxy adds.
    exceed(&world, header, |n| format!("198.51.100.{n}, 192.0.2.3")).await;
    exceed(&world, header, |n| format!("2001:db8::{n}")).await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(world.get(path).await.status, 200, "{path}");
    }
}
