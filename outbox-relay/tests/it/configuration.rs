use std::process::{Command, Stdio};

use crate::support::RELAY;

fn refused(environment: &[(&str, &str)]) -> String {
    let output = Command::new(RELAY)
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", "a")
        .env("AWS_SECRET_ACCESS_KEY", "b")
        .env("RELAY_ADMIN_LISTEN", "127.0.0.1:0")
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64), "{environment:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn an_invalid_option_stops_the_relay_with_one_sentence() {
    for (name, value) in [
        ("RELAY_ADMIN_LISTEN", "nowhere"),
        ("RELAY_ROUTES", ""),
        ("RELAY_ROUTES", "order.*"),
        ("RELAY_LEASE_DURATION", "10"),
        ("RELAY_LEASE_DURATION", "1ms"),
        ("RELAY_POLL_MIN", "0ms"),
        ("RELAY_POLL_MIN", "1s"),
        ("RELAY_POLL_MAX", "1h"),
        ("RELAY_POLL_MAX", "49ms"),
        ("RELAY_RETENTION", "soon"),
        ("RELAY_RETENTION", "1h"),
        ("RELAY_RETENTION", "24h 59m"),
        ("OUTBOX_BUCKETS", "0"),
        ("OUTBOX_BUCKETS", "257"),
        ("RELAY_CONSUMER_GROUP", "a|b"),
        ("RELAY_INSTANCE_ID", ""),
        ("LEASES_TABLE", "outbox"),
        ("LEASES_TABLE", "a table"),
        ("OUTBOX_TABLE", ""),
        ("RELAY_ROUTES", "*=https://"),
        ("RELAY_SWEEP_INTERVAL", "1ms"),
        ("RELAY_SWEEP_AFTER", "99ms"),
        ("AWS_ENDPOINT_URL_DYNAMODB_STREAMS", "localhost:8000"),
        ("SHUTDOWN_GRACE", "0s"),
        ("LOG_FORMAT", "xml"),
        ("RUST_LOG", "=="),
    ] {
        let message = refused(&[(name, value)]);
        assert_eq!(message.trim_end().lines().count(), 1, "{name}: {message}");
        assert!(message.len() > 20, "{name}: {message}");
    }
}

#[test]
fn an_invalid_token_is_rejected_and_not_repeated() {
    for value in ["s3cret words", "s3cret\nwords", "naïve-s3cret", ""] {
        let message = refused(&[("RELAY_ADMIN_TOKEN", value)]);
        assert!(message.contains("RELAY_ADMIN_TOKEN"), "{message}");
        assert!(!message.contains("s3cret"), "{message}");
        assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    }
}

#[test]
fn completions_end_quietly_when_their_reader_closes_the_pipe() {
    let mut child = Command::new(RELAY)
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_missing_region_is_explained() {
    let output = Command::new(RELAY)
        .env_remove("AWS_REGION")
        .env_remove("AWS_DEFAULT_REGION")
        .env("AWS_CONFIG_FILE", "/nonexistent")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("AWS_REGION")
    );
}

#[test]
fn help_names_every_variable_with_its_default() {
    let output = Command::new(RELAY).arg("--help").output().unwrap();
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    for variable in [
        "RELAY_ADMIN_LISTEN=",
        "RELAY_ROUTES=",
        "RELAY_CONSUMER_GROUP=",
        "RELAY_INSTANCE_ID=",
        "RELAY_LEASE_DURATION=",
        "RELAY_POLL_MIN=",
        "RELAY_POLL_MAX=",
        "RELAY_RETENTION=",
        "RELAY_SWEEP_INTERVAL=",
        "RELAY_SWEEP_AFTER=",
        "OUTBOX_TABLE=",
        "OUTBOX_BUCKETS=",
        "LEASES_TABLE=",
        "SHUTDOWN_GRACE=",
        "LOG_FORMAT=",
    ] {
        assert!(help.contains(variable), "{variable} is not in\n{help}");
    }
    assert!(help.contains("[default: order.*=order-events]"));
}
