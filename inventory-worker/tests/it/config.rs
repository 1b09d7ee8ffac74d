//! An invalid configuration ends the program before it starts anything.

use std::process::Stdio;

use tokio::process::Command;

use crate::support::program;

/// Runs the program with one variable set. Returns the exit code and standard error.
async fn run(variable: &str, value: &str) -> (Option<i32>, String) {
    let output = Command::new(program())
        .env("AWS_REGION", "us-east-1")
        .env(variable, value)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), error)
}

#[tokio::test]
async fn an_invalid_value_exits_with_64_and_one_sentence_that_names_the_option() {
    for (variable, option, wrong) in [
        ("WORKER_ADMIN_LISTEN", "--admin-listen", "8082"),
        ("WORKER_QUEUE", "--queue", "no queue"),
        ("WORKER_QUEUE", "--queue", ""),
        ("WORKER_CONCURRENCY", "--concurrency", "0"),
        ("WORKER_CONCURRENCY", "--concurrency", "1001"),
        ("WORKER_CONCURRENCY", "--concurrency", "many"),
        ("WORKER_VISIBILITY_TIMEOUT", "--visibility-timeout", "30"),
        ("WORKER_VISIBILITY_TIMEOUT", "--visibility-timeout", "500ms"),
        ("WORKER_VISIBILITY_TIMEOUT", "--visibility-timeout", "13h"),
        ("ORDERS_TABLE", "--orders-table", "a"),
        ("INVENTORY_TABLE", "--inventory-table", "a table"),
        ("INVENTORY_TABLE", "--inventory-table", "orders"),
        ("WORKER_QUEUE", "--queue", "https://"),
        ("SHUTDOWN_GRACE", "--shutdown-grace", "soon"),
        ("AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL_SQS", "localhost"),
    ] {
        let (code, error) = run(variable, wrong).await;
        assert_eq!(code, Some(64), "{variable}={wrong}: {error}");
        assert_eq!(error.trim_end().lines().count(), 1, "{error}");
        assert!(error.contains(option), "{error}");
    }
}

#[tokio::test]
async fn help_shows_every_variable_with_its_default() {
    let output = Command::new(program())
        .arg("--help")
        .output()
        .await
        .unwrap();
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    for (variable, default) in [
        ("WORKER_ADMIN_LISTEN", "127.0.0.1:8082"),
        ("WORKER_QUEUE", "order-events"),
        ("WORKER_CONCURRENCY", "16"),
        ("WORKER_VISIBILITY_TIMEOUT", "30s"),
        ("ORDERS_TABLE", "orders"),
        ("INVENTORY_TABLE", "inventory"),
        ("LOG_FORMAT", "text"),
        ("SHUTDOWN_GRACE", "20s"),
    ] {
        assert!(
            help.contains(&format!("[env: {variable}=")),
            "{variable}\n{help}"
        );
        assert!(help.contains(&format!("[default: {default}]")), "{help}");
    }
}
