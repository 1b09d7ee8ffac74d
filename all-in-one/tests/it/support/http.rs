//! Orders over HTTP.

use serde_json::{Value, json};

/// An order as the API returned it.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) id: String,
    pub(crate) sku: String,
    pub(crate) quantity: u64,
}

/// Returns the body of the `n`-th order of a test; `n` determines its SKU and quantity.
pub(crate) fn order_body(n: usize) -> Value {
    json!({
        "customer_id": format!("c-{n}"),
        "currency": "EUR",
        "items": [{
            "sku": format!("WIDGET-{}", n % 5 + 1),
            "quantity": n % 3 + 1,
            "unit_price_minor": 1999,
        }],
    })
}

/// Posts one order to the API at `api` and asserts that it is created.
pub(crate) async fn post_order(http: &reqwest::Client, api: &str, n: usize) -> Order {
    let answer = http
        .post(format!("{api}/orders"))
        .json(&order_body(n))
        .send()
        .await
        .unwrap();
    let status = answer.status();
    let order: Value = answer.json().await.unwrap();
    assert_eq!(status, 201, "{order}");
    Order {
        id: order["order_id"].as_str().unwrap().to_owned(),
        sku: order["items"][0]["sku"].as_str().unwrap().to_owned(),
        quantity: order["items"][0]["quantity"].as_u64().unwrap(),
    }
}

pub(crate) async fn get_order(http: &reqwest::Client, api: &str, id: &str) -> Value {
    let answer = http.get(format!("{api}/orders/{id}")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.json().await.unwrap()
}
