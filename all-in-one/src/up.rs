//! The sub-command `up`: the cloud in this process, the services as children, until a signal.

use std::path::Path;

use clap::ValueEnum;
use local_cloud::LocalCloud;
use shared::aws::Clients;
use shared::provision;
use test_support::child_process::Spec;
use test_support::reserved_port::Reservation;
use test_support::signals::Stopping;

use crate::banner::Banner;
use crate::cli::UpOptions;
use crate::cloud;
use crate::error::UpError;
use crate::readiness::Probe;
use crate::services::Services;

/// Names of the services and of their sub-commands, in the order in which they stop, so that the
/// last accepted orders are still published and processed.
pub(crate) const SERVICES: [&str; 3] = ["order-api", "outbox-relay", "inventory-worker"];

/// The relay keeps its name across restarts, so that it reacquires its leases before they expire.
const RELAY_INSTANCE: &str = "relay-1";

/// Read interval of the relay: reads of the embedded stream cost nothing.
const RELAY_POLL_MIN: &str = "5ms";

/// Starts everything, prints the addresses, and stops everything in order when `stopping` is
/// cancelled. No process and no file is left, regardless of the outcome.
pub(crate) async fn run(options: UpOptions, stopping: Stopping) -> Result<(), UpError> {
    let program = std::env::current_exe().map_err(UpError::Program)?;
    let ports = Ports::reserve(&options)?;
    let cloud = cloud::start(options.cloud).await?;
    let outcome = serve(&options, &program, &ports, &cloud, stopping).await;
    let removed = cloud.stop().await.map_err(UpError::Folder);
    outcome.and(removed)
}

async fn serve(
    options: &UpOptions,
    program: &Path,
    ports: &Ports,
    cloud: &LocalCloud,
    stopping: Stopping,
) -> Result<(), UpError> {
    let probe = Probe::new()?;
    let clients = Clients {
        dynamodb: cloud.dynamodb_client(),
        streams: cloud.streams_client(),
        sqs: cloud.sqs_client(),
    };
    let prepared = async {
        provision::create_resources(&clients, &options.names).await?;
        provision::stock_widgets(&clients, &options.names).await
    };
    tokio::select! {
        prepared = prepared => prepared?,
        () = stopping.stop.cancelled() => return Ok(()),
    }

    let grace = options.process.shutdown_grace;
    let specs = specs(options, program, ports, cloud);
    let services = Services::start(specs, grace, &stopping.force);
    let outcome = tokio::select! {
        ready = services.ready(&probe) => ready.map_err(UpError::from),
        () = stopping.stop.cancelled() => Ok(()),
    };
    if outcome.is_ok() && !stopping.stop.is_cancelled() {
        let banner = Banner {
            api: ports.order_api.url(),
            api_admin: ports.order_api_admin.url(),
            relay: ports.relay_admin.url(),
            worker: ports.worker_admin.url(),
            dynamodb: cloud.dynamodb_url(),
            sqs: cloud.sqs_url(),
            pids: services.pids(),
            credentials: credentials(),
            otlp: std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").ok(),
        };
        banner.print();
        stopping.stop.cancelled().await;
        tracing::info!("stopping; press Ctrl-C again to kill the services");
    }
    services.stop().await;
    outcome
}

/// Returns the header that requests to the API need, which reads the same variables.
fn credentials() -> Option<&'static str> {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if is_set("ORDER_API_KEYS_FILE") {
        Some("X-API-Key: <key>")
    } else if is_set("ORDER_API_JWKS") {
        Some("Authorization: Bearer <token>")
    } else {
        None
    }
}

/// Reserved addresses of the services.
struct Ports {
    order_api: Reservation,
    order_api_admin: Reservation,
    relay_admin: Reservation,
    worker_admin: Reservation,
}

impl Ports {
    fn reserve(options: &UpOptions) -> Result<Self, UpError> {
        let take = |service, address, option| {
            Reservation::take(address)
                .map_err(|error| UpError::port(service, address, &error, option))
        };
        Ok(Self {
            order_api: take(
                "order-api",
                options.order_api_listen,
                "--order-api-listen (ORDER_API_LISTEN)",
            )?,
            order_api_admin: take(
                "order-api",
                options.order_api_admin_listen,
                "--order-api-admin-listen (ORDER_API_ADMIN_LISTEN)",
            )?,
            relay_admin: take(
                "outbox-relay",
                options.relay_admin_listen,
                "--relay-admin-listen (RELAY_ADMIN_LISTEN)",
            )?,
            worker_admin: take(
                "inventory-worker",
                options.worker_admin_listen,
                "--worker-admin-listen (WORKER_ADMIN_LISTEN)",
            )?,
        })
    }
}

/// Returns the command of each service and the URL of its admin port.
fn specs(
    options: &UpOptions,
    program: &Path,
    ports: &Ports,
    cloud: &LocalCloud,
) -> Vec<(Spec, String)> {
    let names = &options.names;
    let process = &options.process;
    let mut environment = cloud.env();
    environment.extend(names.environment());
    environment.extend([
        ("OUTBOX_BUCKETS", options.outbox_buckets.to_string()),
        (
            "RELAY_AGGREGATE_TABLES",
            format!("order={}", names.orders_table),
        ),
        (
            "SHUTDOWN_GRACE",
            humantime::format_duration(process.shutdown_grace).to_string(),
        ),
    ]);
    if let Some(format) = process.log_format.to_possible_value() {
        environment.push(("LOG_FORMAT", format.get_name().to_owned()));
    }
    let spec = |name, listen, port: &Reservation| Spec {
        name,
        program: program.to_owned(),
        environment: environment
            .iter()
            .cloned()
            .chain([(listen, port.address().to_string())])
            .collect(),
        log_is_read: false,
    };
    let [order_api, outbox_relay, inventory_worker] = SERVICES;
    let mut relay = spec(outbox_relay, "RELAY_ADMIN_LISTEN", &ports.relay_admin);
    let defaults = [
        ("RELAY_INSTANCE_ID", RELAY_INSTANCE),
        ("RELAY_POLL_MIN", RELAY_POLL_MIN),
    ];
    for (name, value) in defaults {
        if std::env::var_os(name).is_none() {
            relay.environment.push((name, value.to_owned()));
        }
    }
    let mut api = spec(order_api, "ORDER_API_LISTEN", &ports.order_api);
    api.environment.extend([
        (
            "ORDER_API_ADMIN_LISTEN",
            ports.order_api_admin.address().to_string(),
        ),
        // There is no other instance to which clients could move.
        ("ORDER_API_DRAIN_DELAY", "0s".to_owned()),
        // The tables are new, so they have no keys of an earlier release.
        ("ORDER_API_UNSCOPED_KEYS", "ignore".to_owned()),
    ]);
    let worker = spec(inventory_worker, "WORKER_ADMIN_LISTEN", &ports.worker_admin);
    vec![
        (api, ports.order_api_admin.url()),
        (relay, ports.relay_admin.url()),
        (worker, ports.worker_admin.url()),
    ]
}
