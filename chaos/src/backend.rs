//! DynamoDB and SQS of a run: embedded, or at other endpoints.

use std::io;
use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::config::Credentials;
use futures::future::join_all;
use http::Uri;
use local_cloud::{Config, FidelityControl, LocalCloud, StartError};
use outbox::Buckets;
use shared::aws::{ATTEMPT_TIMEOUT, Causes, Clients, QueueUrlError};
use shared::provision::{self, ProvisionError, ResourceNames, dead_letter_queue_name};
use test_support::fault_proxy::Upstream;
use tokio_util::sync::CancellationToken;

use super::degradation::NOT_DEGRADED;
use super::options::{EmbeddedCloud, Endpoints};
use super::schedule::QUEUES;

/// Credentials for signatures that the backend does not check.
const REGION: &str = "us-east-1";
const KEY: &str = "local";

/// Same value as in the clients of the services.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// SKU of one order in a hundred, with so few pieces that the stock runs out within 20 s at the
/// default rate. Later orders for it are rejected.
pub(super) const SCARCE_SKU: &str = "SCARCE-1";
const SCARCE_PIECES: u64 = 15;

/// Tables, queues and clients of a run.
#[derive(Debug)]
pub(super) struct Backend {
    /// `None` for other endpoints.
    cloud: Option<LocalCloud>,
    dynamodb: Uri,
    streams: Uri,
    sqs: Uri,
    /// Clients that bypass the proxies.
    pub(super) clients: Clients,
    pub(super) names: ResourceNames,
    /// Queue of the events of the sequence workload. FIFO, so that events are delivered in the
    /// order in which they were sent.
    pub(super) chaos_queue: String,
    /// Common suffix of the names of tables and queues; empty in the embedded cloud.
    suffix: String,
}

/// Error of the backend.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    #[error("the embedded cloud could not start: {0}")]
    Start(#[from] StartError),
    #[error("an address of the embedded cloud is not a URL: {0}")]
    Address(#[from] http::uri::InvalidUri),
    #[error("{0}")]
    Provision(#[from] ProvisionError),
    #[error("{what} could not be deleted: {reason}")]
    Delete { what: String, reason: String },
    #[error("interrupted; tables and queues with `{0}` in their names may be left")]
    Left(String),
    #[error("the temporary folder could not be removed: {0}")]
    Folder(io::Error),
}

impl Backend {
    /// Starts the embedded cloud, or connects to the other endpoints.
    pub(super) async fn open(
        endpoints: &Endpoints,
        embedded: EmbeddedCloud,
    ) -> Result<Self, BackendError> {
        if let (Some(dynamodb), Some(sqs)) = (&endpoints.dynamodb_endpoint, &endpoints.sqs_endpoint)
        {
            let streams = endpoints.streams_endpoint.as_ref().unwrap_or(dynamodb);
            let suffix = format!("-chaos-{:08x}", fastrand::u32(..));
            return Ok(Self::at(None, dynamodb, streams, sqs, &suffix));
        }
        let cloud = LocalCloud::start(Config {
            shards: embedded.shard_options(),
            fidelity: NOT_DEGRADED,
            ..Config::default()
        })
        .await?;
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
            names: ResourceNames {
                orders_table: named("orders"),
                outbox_table: named("outbox"),
                inventory_table: named("inventory"),
                idempotency_table: named("idempotency_keys"),
                leases_table: named("relay_leases"),
                worker_queue: named("order-events"),
            },
            chaos_queue: format!("chaos-events{suffix}.fifo"),
            suffix: suffix.to_owned(),
        }
    }

    /// Creates the tables and queues and the stock.
    pub(super) async fn prepare(&self) -> Result<(), BackendError> {
        provision::create_resources(&self.clients, &self.names).await?;
        provision::queue(&self.clients.sqs, &self.chaos_queue).await?;
        provision::stock_widgets(&self.clients, &self.names).await?;
        let scarce = [SCARCE_SKU.to_owned()];
        let inventory = &self.names.inventory_table;
        provision::stock(&self.clients.dynamodb, inventory, scarce, SCARCE_PIECES).await?;
        Ok(())
    }

    /// Returns the endpoints to which the proxies forward.
    pub(super) fn upstream(&self) -> Upstream {
        Upstream::new(
            self.dynamodb.clone(),
            self.streams.clone(),
            self.sqs.clone(),
        )
    }

    /// Returns the control that degrades the embedded cloud, or `None` for other endpoints.
    pub(super) fn fidelity(&self) -> Option<FidelityControl> {
        self.cloud.as_ref().map(LocalCloud::fidelity)
    }

    /// Returns the endpoint, or `None` for the embedded cloud.
    pub(super) fn endpoint(&self) -> Option<String> {
        match self.cloud {
            Some(_) => None,
            None => Some(format!("{} and {}", self.dynamodb, self.sqs)),
        }
    }

    /// Returns the environment variables of a process whose services are behind `proxy`.
    pub(super) fn environment(&self, proxy: &str) -> Vec<(&'static str, String)> {
        let [region, key] = [REGION, KEY].map(str::to_owned);
        let routes = format!(
            "order.*={},chaos.*={}",
            self.names.worker_queue, self.chaos_queue
        );
        [
            ("AWS_ENDPOINT_URL_DYNAMODB", proxy.to_owned()),
            ("AWS_ENDPOINT_URL_DYNAMODB_STREAMS", proxy.to_owned()),
            ("AWS_ENDPOINT_URL_SQS", proxy.to_owned()),
            ("AWS_REGION", region),
            ("AWS_ACCESS_KEY_ID", key.clone()),
            ("AWS_SECRET_ACCESS_KEY", key),
            ("RELAY_ROUTES", routes),
            // The number that the writers and the final state of chaos use.
            ("OUTBOX_BUCKETS", Buckets::default().to_string()),
        ]
        .into_iter()
        .chain(self.names.environment())
        .collect()
    }

    /// Returns every queue except the dead-letter queues.
    pub(super) fn queues(&self) -> [&str; QUEUES] {
        [&self.names.worker_queue, &self.chaos_queue]
    }

    /// Deletes everything that the run created, unless `force` is cancelled first.
    ///
    /// # Errors
    /// The first failed deletion; the others are logged.
    pub(super) async fn close(self, force: &CancellationToken) -> Result<(), BackendError> {
        match self.cloud {
            Some(cloud) => cloud.stop().await.map_err(BackendError::Folder),
            None => match force.run_until_cancelled(self.delete()).await {
                Some(deleted) => deleted,
                None => Err(BackendError::Left(self.suffix)),
            },
        }
    }

    /// Deletes everything concurrently: one failure does not prevent the others, and an
    /// unresponsive service is waited for only once.
    async fn delete(&self) -> Result<(), BackendError> {
        let names = &self.names;
        let tables = [
            &names.orders_table,
            &names.outbox_table,
            &names.inventory_table,
            &names.idempotency_table,
            &names.leases_table,
        ];
        let queues = self.queues();
        let queues = queues.map(|queue| [queue.to_owned(), dead_letter_queue_name(queue)]);
        let (tables, queues) = tokio::join!(
            join_all(tables.map(|table| self.delete_table(table))),
            join_all(
                queues
                    .iter()
                    .flatten()
                    .map(|queue| self.delete_queue(queue))
            ),
        );
        let mut failed = tables.into_iter().chain(queues).filter_map(Result::err);
        let Some(first) = failed.next() else {
            return Ok(());
        };
        failed.for_each(|error| tracing::error!("{error}"));
        Err(first)
    }

    async fn delete_table(&self, table: &str) -> Result<(), BackendError> {
        let deleted = self.clients.dynamodb.delete_table().table_name(table);
        match deleted.send().await {
            Ok(_) => Ok(()),
            // It was never created.
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|error| error.is_resource_not_found_exception()) =>
            {
                Ok(())
            }
            Err(error) => Err(BackendError::Delete {
                what: format!("table `{table}`"),
                reason: Causes(&error).to_string(),
            }),
        }
    }

    async fn delete_queue(&self, queue: &str) -> Result<(), BackendError> {
        let not_deleted = |reason| BackendError::Delete {
            what: format!("queue `{queue}`"),
            reason,
        };
        let sqs = &self.clients.sqs;
        let url = match shared::aws::queue_url(sqs, queue).await {
            Ok(url) => url,
            // It was never created.
            Err(QueueUrlError::DoesNotExist(_)) => return Ok(()),
            Err(error) => return Err(not_deleted(error.to_string())),
        };
        let deleted = sqs.delete_queue().queue_url(url).send().await;
        deleted
            .map(drop)
            .map_err(|error| not_deleted(Causes(&error).to_string()))
    }
}

/// Creates clients that bypass the proxies.
fn clients(dynamodb: &Uri, streams: &Uri, sqs: &Uri) -> Clients {
    let config = |endpoint: &Uri| {
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static(REGION))
            .credentials_provider(aws_sdk_dynamodb::config::SharedCredentialsProvider::new(
                Credentials::new(KEY, KEY, None, None, "chaos"),
            ))
            .endpoint_url(endpoint.to_string())
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(CONNECT_TIMEOUT)
                    .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                    .build(),
            )
            .build()
    };
    Clients {
        dynamodb: aws_sdk_dynamodb::Client::new(&config(dynamodb)),
        streams: aws_sdk_dynamodbstreams::Client::new(&config(streams)),
        sqs: aws_sdk_sqs::Client::new(&config(sqs)),
    }
}
