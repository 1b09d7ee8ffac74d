//! Invalid options end the program before it binds a port.

use std::process::{Command, Output};

use crate::support::PROGRAM;

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(PROGRAM)
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

#[test]
fn an_invalid_option_exits_with_64_and_one_sentence() {
    let region = ("AWS_REGION", "us-east-1");
    for (name, value, expected) in [
        ("ORDER_API_LISTEN", "somewhere", "127.0.0.1:8080"),
        ("ORDER_API_ADMIN_LISTEN", "8083", "127.0.0.1:8080"),
        (
            "ORDER_API_ADMIN_LISTEN",
            "127.0.0.1:8080",
            "--listen and --admin-listen",
        ),
        ("ORDERS_TABLE", "", "table name"),
        (
            "OUTBOX_TABLE",
            "orders",
            "--orders-table and --outbox-table",
        ),
        (
            "IDEMPOTENCY_TABLE",
            "outbox",
            "--outbox-table and --idempotency-table",
        ),
        ("ORDER_API_REQUEST_TIMEOUT", "10", "unit"),
        ("ORDER_API_REQUEST_TIMEOUT", "1h", "100ms to 5m"),
        ("ORDER_API_MAX_CONCURRENCY", "0", "1..=65536"),
        ("ORDER_API_MAX_CONNECTIONS", "0", "1..=65536"),
        ("ORDER_API_MAX_CONNECTIONS_PER_ADDRESS", "0", "1..=65536"),
        ("ORDER_API_DRAIN_DELAY", "5", "unit"),
        ("ORDER_API_DRAIN_DELAY", "6m", "0s to 5m"),
        ("SHUTDOWN_GRACE", "soon", "unit"),
        ("ORDER_API_LISTEN", "0.0.0.0:8080", "ORDER_API_KEYS_FILE"),
        ("ORDER_API_ANONYMOUS", "deny", "allow"),
        ("ORDER_API_KEYS_FILE", "/nonexistent", "cannot be opened"),
        ("ORDER_API_KEYS_FILE", "/dev/null", "has no keys"),
        ("ORDER_API_KEYS_FILE", "/dev/zero", "is larger than"),
        ("ORDER_API_JWKS", "http://id.example.org/jwks", "https://"),
        ("ORDER_API_JWKS", "/etc/jwks.json", "ORDER_API_JWT_ISSUER"),
        ("ORDER_API_JWT_ISSUER", "", "empty"),
        (
            "ORDER_API_JWT_ISSUER",
            "https://id.example.org",
            "ORDER_API_JWT_AUDIENCE",
        ),
        ("ORDER_API_PRINCIPAL_RATE", "0", "1000000"),
        ("ORDER_API_ADDRESS_RATE", "many", "1000000"),
        ("ORDER_API_TRUSTED_PROXIES", "proxy", "10.0.0.0/8"),
        ("LOG_FORMAT", "xml", "json"),
        ("AWS_ENDPOINT_URL", "localhost:8000", "AWS_ENDPOINT_URL"),
        ("AWS_ENDPOINT_URL_DYNAMODB", "nonsense", "http://"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4317", "http://"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "grpc"),
        ("OTEL_TRACES_SAMPLER", "sometimes", "always_on"),
    ] {
        let output = run(&[], &[region, (name, value)]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{name}={value}: {stderr}");
        assert!(stderr.contains(expected), "{name}={value}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    let output = run(&["--no-such-option"], &[region]);
    assert_eq!(output.status.code(), Some(64));
    let output = run(&[], &[]);
    assert_eq!(output.status.code(), Some(64), "no region");
}

#[test]
fn a_file_of_keys_with_errors_is_explained_in_one_sentence() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "# keys\na b c-1\n").unwrap();
    let path = file.path().to_str().unwrap();
    let environment = [("AWS_REGION", "us-east-1"), ("ORDER_API_KEYS_FILE", path)];
    let output = run(&[], &environment);
    assert_eq!(output.status.code(), Some(64));
    let stderr = String::from_utf8(output.stderr).unwrap();
    let expected = format!(
        "error: ORDER_API_KEYS_FILE ({path}) line 2: the hash of `a` must be 64 hexadecimal digits, the SHA-256 of the key\n"
    );
    assert_eq!(stderr, expected);
}

#[test]
fn help_shows_every_option_with_its_variable_and_default() {
    let output = run(&["--help"], &[]);
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    for text in [
        "[env: ORDER_API_LISTEN",
        "[default: 127.0.0.1:8080]",
        "[env: ORDER_API_ADMIN_LISTEN",
        "[default: 127.0.0.1:8083]",
        "[env: ORDERS_TABLE",
        "[default: orders]",
        "[env: OUTBOX_TABLE",
        "[default: outbox]",
        "[env: IDEMPOTENCY_TABLE",
        "[default: idempotency_keys]",
        "[env: ORDER_API_UNSCOPED_KEYS",
        "[default: check]",
        "[env: ORDER_API_REQUEST_TIMEOUT",
        "[default: 10s]",
        "[env: ORDER_API_MAX_CONCURRENCY",
        "[default: 512]",
        "[env: ORDER_API_MAX_CONNECTIONS=",
        "[default: 4096]",
        "[env: ORDER_API_MAX_CONNECTIONS_PER_ADDRESS",
        "[default: 2048]",
        "[env: ORDER_API_DRAIN_DELAY",
        "[default: 0s]",
        "[env: ORDER_API_KEYS_FILE",
        "[env: ORDER_API_JWT_ISSUER",
        "[env: ORDER_API_JWT_AUDIENCE",
        "[env: ORDER_API_JWKS",
        "[env: ORDER_API_JWT_CUSTOMER_CLAIM",
        "[default: customer_id]",
        "[env: ORDER_API_ANONYMOUS",
        "[env: ORDER_API_PRINCIPAL_RATE",
        "[default: 1000]",
        "[env: ORDER_API_ADDRESS_RATE",
        "[env: ORDER_API_TRUSTED_PROXIES",
        "[env: SHUTDOWN_GRACE",
        "[default: 20s]",
        "[env: LOG_FORMAT",
        "[default: text]",
    ] {
        assert!(help.contains(text), "{text}");
    }
}

#[test]
fn an_address_in_use_is_named_in_the_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let environment = [("AWS_REGION", "us-east-1"), ("ORDER_API_LISTEN", &address)];
    let output = run(&[], &environment);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains(&format!("cannot listen on {address}")),
        "{stderr}"
    );
}
