//! Starting and stopping, and several clouds at once.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use local_cloud::{Config, LocalCloud, Service, StartError};

use crate::support::{create_tables, start};

fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn addr_of(url: &str) -> SocketAddr {
    url.strip_prefix("http://").unwrap().parse().unwrap()
}

#[tokio::test]
async fn concurrent_clouds_share_no_data() {
    let (one, other) = tokio::join!(start(), start());
    create_tables(&one.dynamodb_client()).await;
    one.sqs_client()
        .create_queue()
        .queue_name("order-events")
        .send()
        .await
        .unwrap();

    let tables = other.dynamodb_client().list_tables().send().await.unwrap();
    assert_eq!(tables.table_names(), [] as [&str; 0]);
    let queues = other.sqs_client().list_queues().send().await.unwrap();
    assert_eq!(queues.queue_urls(), [] as [&str; 0]);
}

#[tokio::test]
async fn environment_variables_contain_the_url_of_each_service() {
    let cloud = start().await;
    let env = cloud.env();
    let value = |name: &str| {
        let found = env.iter().find(|(n, _)| *n == name);
        found.unwrap_or_else(|| panic!("no {name}")).1.clone()
    };
    assert_eq!(value("AWS_ENDPOINT_URL_DYNAMODB"), cloud.dynamodb_url());
    assert_eq!(
        value("AWS_ENDPOINT_URL_DYNAMODB_STREAMS"),
        cloud.dynamodb_url()
    );
    assert_eq!(value("AWS_ENDPOINT_URL_SQS"), cloud.sqs_url());
    assert_eq!(value("AWS_REGION"), "us-east-1");
    assert_eq!(value("AWS_ACCESS_KEY_ID"), "local");
    assert_eq!(value("AWS_SECRET_ACCESS_KEY"), "local");
}

#[tokio::test]
async fn error_names_the_port_in_use_and_its_service() {
    let taken = TcpListener::bind(any_port()).unwrap();
    let addr = taken.local_addr().unwrap();

    let dynamodb = Config {
        dynamodb: addr,
        sqs: any_port(),
        ..Config::default()
    };
    let sqs = Config {
        dynamodb: any_port(),
        sqs: addr,
        ..Config::default()
    };
    for (config, expected, name) in [
        (dynamodb, Service::DynamoDb, "DynamoDB"),
        (sqs, Service::Sqs, "SQS"),
    ] {
        let error = LocalCloud::start(config).await.err().unwrap();
        assert_eq!(
            error.to_string(),
            format!(
                "{name} cannot listen on {addr}: the address is already in use by another program"
            )
        );
        let StartError::Bind {
            service, addr: at, ..
        } = error
        else {
            panic!("{error:?}");
        };
        assert_eq!((service, at), (expected, addr));
    }
}

#[tokio::test]
async fn stop_deletes_the_directory_and_frees_the_ports() {
    let cloud = start().await;
    create_tables(&cloud.dynamodb_client()).await;
    let dir = cloud.temp_dir().to_owned();
    let addrs = [addr_of(&cloud.dynamodb_url()), addr_of(&cloud.sqs_url())];
    assert!(dir.join("dynamodb.sqlite").exists());

    cloud.stop().await.unwrap();

    assert!(!dir.exists());
    for addr in addrs {
        TcpListener::bind(addr).unwrap();
    }
}

#[tokio::test]
async fn drop_deletes_the_directory_and_frees_the_ports() {
    let cloud = start().await;
    let dir = cloud.temp_dir().to_owned();
    let addr = addr_of(&cloud.dynamodb_url());

    drop(cloud);

    assert!(!dir.exists());
    TcpListener::bind(addr).unwrap();
}

#[tokio::test]
async fn stop_does_not_wait_for_open_requests() {
    let cloud = start().await;
    let sqs = cloud.sqs_client();
    let queue = sqs.create_queue().queue_name("q").send().await.unwrap();
    // An incomplete request keeps its connection open indefinitely.
    let mut half = std::net::TcpStream::connect(addr_of(&cloud.dynamodb_url())).unwrap();
    std::io::Write::write_all(&mut half, b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\n{").unwrap();
    let poll = sqs
        .receive_message()
        .set_queue_url(queue.queue_url)
        .wait_time_seconds(20)
        .customize()
        .config_override(
            aws_sdk_sqs::config::Builder::new()
                .retry_config(aws_sdk_sqs::config::retry::RetryConfig::disabled()),
        )
        .send();
    let poll = tokio::spawn(poll);
    let polling = async || {
        let attributes = sqs.list_queues().send().await.unwrap();
        (!attributes.queue_urls().is_empty()).then_some(())
    };
    crate::support::eventually("the poll to be under way", polling).await;

    let started = std::time::Instant::now();
    cloud.stop().await.unwrap();

    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
    assert!(poll.await.unwrap().is_err());
}

#[tokio::test]
async fn url_of_a_wildcard_address_is_the_loopback_address() {
    let wildcard = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let config = Config {
        dynamodb: wildcard,
        sqs: wildcard,
        ..Config::default()
    };
    let cloud = LocalCloud::start(config).await.unwrap();
    assert!(cloud.dynamodb_url().starts_with("http://127.0.0.1:"));
    let queue = cloud
        .sqs_client()
        .create_queue()
        .queue_name("q")
        .send()
        .await;
    let url = queue.unwrap().queue_url.unwrap();
    assert_eq!(url, format!("{}/000000000000/q", cloud.sqs_url()));
}
