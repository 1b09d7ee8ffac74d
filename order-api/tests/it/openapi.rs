//! The OpenAPI document and the page that shows it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::World;

/// Calls `visit` with every object of a document.
fn objects<'a>(value: &'a Value, visit: &mut impl FnMut(&'a serde_json::Map<String, Value>)) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| objects(item, visit)),
        Value::Object(members) => {
            visit(members);
            members.values().for_each(|member| objects(member, visit));
        }
        _ => {}
    }
}

#[tokio::test]
async fn the_document_is_openapi_3_1() {
    let world = World::start().await;
    let document = &world.document;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
    assert_eq!(document["info"]["title"], "order-api");
    assert!(document["info"]["version"].is_string());

    objects(document, &mut |object| {
        if let Some(Value::String(reference)) = object.get("$ref") {
            let target = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(target).is_some(), "{reference}");
        }
        // OpenAPI 3.1 is JSON Schema, which has the type null instead.
        assert!(!object.contains_key("nullable"), "{object:?}");
    });

    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id), "{id} is not unique");
            assert!(operation["summary"].is_string(), "{method} {path}");
            for (status, response) in operation["responses"].as_object().unwrap() {
                assert!(response["description"].is_string(), "{path} {status}");
                let content = response["content"].as_object().unwrap();
                let is_problem = content.contains_key("application/problem+json");
                let is_error = status.as_str() >= "400" && path.starts_with("/orders");
                assert_eq!(is_problem, is_error, "{path} {status}");
            }
            if path.contains("{id}") {
                assert_eq!(operation["parameters"][0]["in"], "path");
                assert_eq!(operation["parameters"][0]["required"], true);
            }
        }
    }
}

#[tokio::test]
async fn every_route_is_documented_with_its_responses() {
    let world = World::start().await;
    let statuses = |path: &str, method: &str| {
        let responses = &world.document["paths"][path][method]["responses"];
        let mut statuses: Vec<_> = responses.as_object().unwrap().keys().collect();
        statuses.sort_unstable();
        statuses.into_iter().map(String::as_str).collect::<Vec<_>>()
    };
    assert_eq!(
        statuses("/orders", "post"),
        [
            "201", "400", "401", "403", "405", "408", "413", "415", "422", "429", "500", "503",
            "504"
        ]
    );
    assert_eq!(
        statuses("/orders/{id}", "get"),
        [
            "200", "401", "403", "404", "405", "429", "500", "503", "504"
        ]
    );
    assert_eq!(statuses("/healthz", "get"), ["200"]);
    assert_eq!(statuses("/readyz", "get"), ["200", "503"]);

    let create = &world.document["paths"]["/orders"]["post"];
    assert_eq!(create["parameters"][0]["name"], "Idempotency-Key");
    let headers = &create["responses"]["201"]["headers"];
    assert!(!headers["Location"].is_null() && !headers["Idempotency-Replayed"].is_null());
    let retry_after = &create["responses"]["503"]["headers"]["Retry-After"];
    assert!(!retry_after.is_null());
}

#[tokio::test]
async fn operations_on_orders_require_the_accepted_credentials() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let hash = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed";
    std::fs::write(file.path(), format!("a {hash} c-1")).unwrap();
    let keys = [("ORDER_API_KEYS_FILE", file.path().to_str().unwrap())];
    let bearer = json!("bearer");
    for (options, required, token_scheme) in [
        (&keys[..], json!([{"api_key": []}]), &Value::Null),
        (&[], json!([{}, {"api_key": []}, {"token": []}]), &bearer),
    ] {
        let world = World::with(options).await;
        let schemes = &world.document["components"]["securitySchemes"];
        assert_eq!(schemes["api_key"]["in"], "header");
        assert_eq!(schemes["api_key"]["name"], "X-API-Key");
        assert_eq!(&schemes["token"]["scheme"], token_scheme);
        let paths = &world.document["paths"];
        assert_eq!(paths["/orders"]["post"]["security"], required);
        assert_eq!(paths["/orders/{id}"]["get"]["security"], required);
        assert!(paths["/healthz"]["get"]["security"].is_null());
    }
}

#[tokio::test]
async fn the_documented_examples_are_valid() {
    let world = World::start().await;
    let schemas = &world.document["components"]["schemas"];
    let created = world.post(&schemas["NewOrder"]["example"]).await;
    let created = created.assert_created();
    let names = |order: &Value| {
        let members = order.as_object().unwrap().keys().cloned();
        members.collect::<BTreeSet<_>>()
    };
    assert_eq!(names(&created), names(&schemas["Order"]["example"]));
    let properties = names(&schemas["Order"]["properties"]);
    assert!(names(&created).is_subset(&properties));
}

#[tokio::test]
async fn the_page_needs_no_network() {
    let world = World::start().await;
    let page = world.get("/docs").await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains("swagger-ui"));
    let initializer = world.get("/docs/swagger-initializer.js").await;
    assert!(initializer.body.contains("\"/openapi.json\""));
    for text in [&page.body, &initializer.body] {
        assert!(
            !text.contains("http://") && !text.contains("https://"),
            "{text}"
        );
    }
    let policy = page.header("content-security-policy");
    assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
    // All files that the page refers to are served by the API.
    for attribute in ["src=\"", "href=\""] {
        for reference in page.body.split(attribute).skip(1) {
            let file = reference.split('"').next().unwrap();
            let path = format!("/docs/{}", file.trim_start_matches("./"));
            let file = world.get(&path).await;
            assert_eq!(file.status, 200, "{path}");
        }
    }
}
