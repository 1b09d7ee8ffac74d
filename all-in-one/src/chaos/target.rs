//! The DynamoDB and SQS of a run: embedded, or somebody else's.

use std::io;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::config::Credentials;
use aws_sdk_dynamodb::error::DisplayErrorContext;
use http::Uri;
use local_cloud::{Config, LocalCloud, StartError};
use shared::aws::Clients;
use shared::provision::{ProvisionError, dead_letter_queue_name};

use super::options::Endpoints;
use super::proxy::Upstream;
use crate::cli::Names;
use crate::provision;

/// Nobody checks what a request was signed with.
const REGION: &str = "us-east-1";
const KEY: &str = "local";

/// Ordered rarely: so few pieces that orders for it are soon rejected.
pub(super) const SCARCE_SKU: &str = "SCARCE-1";
const SCARCE_PIECES: u64 = 200;

/// What a run works on.
#[derive(Debug)]
pub(super) struct Target {
    /// `None` when it is somebody else's.
    cloud: Option<LocalCloud>,
    dynamodb: Uri,
    streams: Uri,
    sqs: Uri,
    /// Past the proxies.
    pub(super) clients: Clients,
    pub(super) names: Names,
    /// Where events go that are no orders'. FIFO, so that the order they were
    /// sent in is the order they are delivered in.
    pub(super) chaos_queue: String,
}

/// Why there is nothing to run on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TargetError {
    #[error("the embedded cloud could not start: {0}")]
    Start(#[from] StartError),
    #[error("an address of the embedded cloud is no URL: {0}")]
    Address(#[from] http::uri::InvalidUri),
    #[error("{0}")]
    Provision(#[from] ProvisionError),
    #[error("{what} could not be deleted: {reason}")]
    Delete { what: String, reason: String },
    #[error("the temporary folder could not be removed: {0}")]
    Folder(io::Error),
}

impl Target {
    /// Starts the embedded cloud, or finds the other one.
    pub(super) async fn open(endpoints: &Endpoints) -> Result<Self, TargetError> {
        if let (Some(dynamodb), Some(sqs)) = (&endpoints.dynamodb_endpoint, &endpoints.sqs_endpoint)
        {
            let streams = endpoints.streams_endpoint.as_ref().unwrap_or(dynamodb);
            let suffix = format!("-chaos-{:08x}", fastrand::u32(..));
            return Ok(Self::at(None, dynamodb, streams, sqs, &suffix));
        }
        let cloud = LocalCloud::start(Config::default()).await?;
        let dynamodb = cloud.dynamodb_url().parse()?;
        let sqs = cloud.sqs_url().parse()?;
        Ok(Self::at(Some(cloud), &dynamodb, &dynamodb, &sqs, ""))
    }

    fn at(
        cloud: Option<LocalCloud>,
        dynamodb: &Uri,
        streams: &Uri,
        sqs: &Uri,
        suffix: &str,
    ) -> Self {
        let named = |name: &str| format!("{name}{suffix}");
        Self {
            cloud,
            clients: clients(dynamodb, streams, sqs),
            dynamodb: dynamodb.clone(),
            streams: streams.clone(),
            sqs: sqs.clone(),
            names: Names {
                orders_table: named("orders"),
                outbox_table: named("outbox"),
                inventory_table: named("inventory"),
                idempotency_table: named("idempotency_keys"),
                leases_table: named("relay_leases"),
                worker_queue: named("order-events"),
            },
            chaos_queue: format!("chaos-events{suffix}.fifo"),
        }
    }

    /// Creates and fills everything.
    pub(super) async fn prepare(&self) -> Result<(), TargetError> {
        provision::create(&self.clients, &self.names).await?;
        shared::provision::queue(&self.clients.sqs, &self.chaos_queue).await?;
        provision::stock(&self.clients, &self.names).await?;
        let scarce = [SCARCE_SKU.to_owned()];
        let inventory = &self.names.inventory_table;
        shared::provision::stock(&self.clients.dynamodb, inventory, scarce, SCARCE_PIECES).await?;
        Ok(())
    }

    /// Where the proxies forward to.
    pub(super) fn upstream(&self) -> Upstream {
        Upstream::new(
            self.dynamodb.clone(),
            self.streams.clone(),
            self.sqs.clone(),
        )
    }

    /// The service it runs against, unless it is the embedded one.
    pub(super) fn endpoint(&self) -> Option<String> {
        match self.cloud {
            Some(_) => None,
            None => Some(format!("{} and {}", self.dynamodb, self.sqs)),
        }
    }

    /// The variables of a process whose services are behind `proxy`.
    pub(super) fn environment(&self, proxy: &str) -> Vec<(&'static str, String)> {
        let names = &self.names;
        let [region, key] = [REGION, KEY].map(str::to_owned);
        vec![
            ("AWS_ENDPOINT_URL_DYNAMODB", proxy.to_owned()),
            ("AWS_ENDPOINT_URL_DYNAMODB_STREAMS", proxy.to_owned()),
            ("AWS_ENDPOINT_URL_SQS", proxy.to_owned()),
            ("AWS_REGION", region),
            ("AWS_ACCESS_KEY_ID", key.clone()),
            ("AWS_SECRET_ACCESS_KEY", key),
            ("ORDERS_TABLE", names.orders_table.clone()),
            ("OUTBOX_TABLE", names.outbox_table.clone()),
            ("INVENTORY_TABLE", names.inventory_table.clone()),
            ("IDEMPOTENCY_TABLE", names.idempotency_table.clone()),
            ("LEASES_TABLE", names.leases_table.clone()),
            ("WORKER_QUEUE", names.worker_queue.clone()),
            (
                "RELAY_ROUTES",
                format!(
                    "order.*={},chaos.*={}",
                    names.worker_queue, self.chaos_queue
                ),
            ),
        ]
    }

    /// Every queue, dead letters apart.
    pub(super) fn queues(&self) -> [&str; 2] {
        [&self.names.worker_queue, &self.chaos_queue]
    }

    /// Leaves nothing behind.
    pub(super) async fn close(self) -> Result<(), TargetError> {
        match self.cloud {
            Some(cloud) => cloud.stop().await.map_err(TargetError::Folder),
            None => self.delete().await,
        }
    }

    async fn delete(&self) -> Result<(), TargetError> {
        let names = &self.names;
        for table in [
            &names.orders_table,
            &names.outbox_table,
            &names.inventory_table,
            &names.idempotency_table,
            &names.leases_table,
        ] {
            let deleted = self.clients.dynamodb.delete_table().table_name(table);
            match deleted.send().await {
                Ok(_) => {}
                // It was never created.
                Err(error)
                    if error
                        .as_service_error()
                        .is_some_and(|error| error.is_resource_not_found_exception()) => {}
                Err(error) => {
                    return Err(TargetError::Delete {
                        what: format!("table `{table}`"),
                        reason: DisplayErrorContext(&error).to_string(),
                    });
                }
            }
        }
        let sqs = &self.clients.sqs;
        for queue in self.queues() {
            for name in [queue.to_owned(), dead_letter_queue_name(queue)] {
                // The same.
                let Ok(url) = shared::aws::queue_url(sqs, &name).await else {
                    continue;
                };
                let deleted = sqs.delete_queue().queue_url(url).send().await;
                deleted.map_err(|error| TargetError::Delete {
                    what: format!("queue `{name}`"),
                    reason: DisplayErrorContext(&error).to_string(),
                })?;
            }
        }
        Ok(())
    }
}

/// Clients with nothing in between.
fn clients(dynamodb: &Uri, streams: &Uri, sqs: &Uri) -> Clients {
    let config = |endpoint: &Uri| {
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static(REGION))
            .credentials_provider(aws_sdk_dynamodb::config::SharedCredentialsProvider::new(
                Credentials::new(KEY, KEY, None, None, "chaos"),
            ))
            .endpoint_url(endpoint.to_string())
            .build()
    };
    Clients {
        dynamodb: aws_sdk_dynamodb::Client::new(&config(dynamodb)),
        streams: aws_sdk_dynamodbstreams::Client::new(&config(streams)),
        sqs: aws_sdk_sqs::Client::new(&config(sqs)),
    }
}
