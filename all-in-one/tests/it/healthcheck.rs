//! `healthcheck`: what the containers run.

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
async fn a_healthcheck_tells_success_from_everything_else() {
    let stack = Stack::start(&[]).await;
    let worker = stack.service("inventory-worker").await;
    let url = worker.url("/readyz");
    let ready = eventually(PATIENCE, || async {
        let asked = healthcheck(&url).await;
        if asked.status.success() {
            Ok(())
        } else {
            Err(asked)
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
    let away = healthcheck(&format!("http://{free}/readyz")).await;
    assert_eq!(away.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&away.stderr).contains("does not listen"),
        "{away:?}"
    );
}
