//! Runs against a DynamoDB and an SQS that the run did not start.

use local_cloud::{Config, LocalCloud};
use test_support::{PATIENCE, eventually};

use super::{alone, chaos, run};

#[tokio::test]
async fn a_run_against_other_endpoints_deletes_its_resources() {
    let cloud = LocalCloud::start(Config::default()).await.unwrap();
    let ended = run(&[
        "--duration",
        "6s",
        "--seed",
        "2",
        "--rate",
        "20",
        "--dynamodb-endpoint",
        &cloud.dynamodb_url(),
        "--sqs-endpoint",
        &cloud.sqs_url(),
    ])
    .await;
    assert_eq!(ended.code(), Some(0), "{}", ended.text());
    let report = ended.report();
    let endpoint = report["settings"]["endpoint"].as_str().unwrap();
    assert!(endpoint.starts_with(&cloud.dynamodb_url()), "{endpoint}");
    assert!(report["orders"]["processed"].as_u64().unwrap() > 20);

    let tables = cloud.dynamodb_client().list_tables().send().await.unwrap();
    assert!(tables.table_names().is_empty(), "{tables:?}");
    let queues = cloud.sqs_client().list_queues().send().await.unwrap();
    assert!(queues.queue_urls().is_empty(), "{queues:?}");
}

#[tokio::test]
async fn an_unreachable_endpoint_is_reported() {
    let unreachable = ["http://127.0.0.1:9"; 2];
    let ended = run(&[
        "--dynamodb-endpoint",
        unreachable[0],
        "--sqs-endpoint",
        unreachable[1],
    ])
    .await;
    assert_eq!(ended.code(), Some(1), "{}", ended.text());
    assert!(
        ended.text().contains("could not be created"),
        "{}",
        ended.text()
    );
}

#[tokio::test]
async fn a_permanently_unavailable_service_ends_the_run_early() {
    let _alone = alone().await;
    let cloud = LocalCloud::start(Config::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let arguments = [
        "--duration",
        "10m",
        "--rate",
        "10",
        "--faults",
        "latency",
        "--dynamodb-endpoint",
        &cloud.dynamodb_url(),
        "--sqs-endpoint",
        &cloud.sqs_url(),
    ];
    let child = chaos(&arguments, &folder).spawn().unwrap();
    let dynamodb = cloud.dynamodb_client();
    let written = eventually(PATIENCE, || async {
        let tables = dynamodb.list_tables().send().await.unwrap();
        let mut names = tables.table_names().iter();
        let outbox = names.find(|name| name.starts_with("outbox-chaos"));
        let outbox = outbox.ok_or("no outbox")?;
        let events = dynamodb.scan().table_name(outbox).send().await.unwrap();
        if events.count() > 0 {
            Ok(())
        } else {
            Err("no event")
        }
    });
    written.await.unwrap();
    cloud.stop().await.unwrap();

    let output = tokio::time::timeout(4 * PATIENCE, child.wait_with_output());
    let output = output.await.expect("it still runs").unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("could not be written"), "{stderr}");
    // Every resource is attempted, also after a failure.
    for left in ["table `orders-chaos", "queue `order-events-chaos"] {
        assert!(stderr.contains(left), "no {left} in {stderr}");
    }
}
