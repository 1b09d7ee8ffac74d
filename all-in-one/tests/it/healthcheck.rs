//! `healthcheck`, the health check of the containers.

use test_support::{PATIENCE, eventually};
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::support::{BINARY, Stack};

async fn healthcheck(url: &str) -> std::process::Output {
    Command::new(BINARY)
        .args(["healthcheck", url])
        .output()
        .await
        .unwrap()
}

#[tokio::test]
async fn a_healthcheck_distinguishes_success_from_any_other_response() {
    let stack = Stack::start(&[]).await;
    let worker = stack.service("inventory-worker").await;
    let url = worker.url("/readyz");
    let ready = eventually(PATIENCE, || async {
        let check = healthcheck(&url).await;
        if check.status.success() {
            Ok(())
        } else {
            Err(check)
        }
    });
    ready.await.unwrap();

    let missing = healthcheck(&worker.url("/nothing")).await;
    assert_eq!(missing.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&missing.stderr).contains("404"),
        "{missing:?}"
    );

    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let unreachable = healthcheck(&format!("http://{free}/readyz")).await;
    assert_eq!(unreachable.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&unreachable.stderr).contains("nothing is listening"),
        "{unreachable:?}"
    );
}
