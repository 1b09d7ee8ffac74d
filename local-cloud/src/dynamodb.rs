//! DynamoDB and DynamoDB Streams: dynoxide over an SQLite file, behind an interceptor that corrects
//! differences from AWS.
//!
//! A file rather than memory, because only a file can be opened a second time,
//! and the index that keeps stream writes fast has to be created from outside.

mod child_shards;
mod client_request_tokens;
mod interceptor;
mod item_id;
mod key_schemas;
mod partiql;
mod responses;
mod running_transactions;
mod shards;
mod writes;
mod written_items;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use dynoxide::Database;
use interceptor::{Interceptor, Shared};
use shards::VirtualShards;
pub(crate) use shards::tree::Children;
pub use shards::{MAX_SHARDS, ShardError, ShardOptions};
use tokio::net::TcpListener;

use crate::cloud::Config;
use crate::connections;
use crate::error::{Service, StartError};
use crate::service_host::ServiceHost;

/// Two threads: dynoxide has one lock around SQLite, so one thread runs a statement while the other
/// reads requests and writes responses.
const ENGINE_WORKERS: usize = 2;

/// One thread: its work is small and never blocks.
const INTERCEPTOR_WORKERS: usize = 1;

/// Index for the highest sequence number of a table, which dynoxide queries at every write but does
/// not index: without it each write reads all stream records (measured in-process: 3,056
/// transactions/s fall to 217/s within 20,000 records, compared with a constant 8,000/s). SQLite
/// uses the index only if its expression is exactly dynoxide's.
const STREAM_INDEX: &str = "CREATE INDEX IF NOT EXISTS local_cloud_stream_records \
     ON _stream_records (table_name, CAST(sequence_number AS INTEGER))";

/// A running DynamoDB and DynamoDB Streams.
#[derive(Debug)]
pub(crate) struct DynamoDb {
    // Dropped in this order: no request arrives while the engine stops.
    interceptor: ServiceHost,
    _engine: ServiceHost,
    shards: Option<Arc<VirtualShards>>,
}

impl DynamoDb {
    /// Starts with an empty database in `dir`.
    pub(crate) fn start(dir: &Path, config: &Config) -> Result<Self, StartError> {
        let database = open(&dir.join("dynamodb.sqlite"))?;
        let shards = config.shards.map(|options| {
            let shards = VirtualShards::new(database.clone(), options);
            Arc::new(shards)
        });
        let shared = Shared::new(database.clone(), config.fidelity, shards.clone());
        let internal = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let name = "cloud-engine";
        let engine = ServiceHost::start(
            Service::DynamoDb,
            name,
            internal,
            ENGINE_WORKERS,
            |listener, _| Ok(run_engine(listener, database)),
        )?;
        let upstream = engine.addr();
        let name = "cloud-dynamodb";
        let interceptor = ServiceHost::start(
            Service::DynamoDb,
            name,
            config.dynamodb,
            INTERCEPTOR_WORKERS,
            |listener, _| Ok(run_interceptor(listener, upstream, Arc::new(shared))),
        )?;
        Ok(Self {
            interceptor,
            _engine: engine,
            shards,
        })
    }

    /// Returns the virtual shards. Their methods block for the duration of some statements of the
    /// database.
    pub(crate) fn shards(&self) -> Result<Arc<VirtualShards>, ShardError> {
        self.shards.clone().ok_or(ShardError::NotVirtual)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.interceptor.addr()
    }
}

fn open(file: &Path) -> Result<Database, StartError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| StartError::Database(source);
    let path = file.to_str().ok_or_else(|| {
        failed(
            "the path of the temporary directory is not Unicode; set TMPDIR to one that is".into(),
        )
    })?;
    let database = Database::new(path).map_err(|e| failed(e.into()))?;
    rusqlite::Connection::open(file)
        .and_then(|second| second.execute_batch(STREAM_INDEX))
        .map_err(|e| failed(e.into()))?;
    // Intended for imports, but permanent: above all it disables fsync. The data ends with the
    // process anyway (measured in-process: 8,000 transactions/s instead of 260/s).
    database
        .enable_bulk_loading()
        .map_err(|e| failed(e.into()))?;
    Ok(database)
}

async fn run_interceptor(listener: TcpListener, upstream: SocketAddr, shared: Arc<Shared>) {
    let interceptor = || Interceptor::new(upstream, Arc::clone(&shared));
    let serving = connections::serve(listener, interceptor);
    match &shared.shards {
        Some(shards) => {
            tokio::join!(serving, Arc::clone(shards).split_periodically());
        }
        None => serving.await,
    }
}

async fn run_engine(listener: TcpListener, database: Database) {
    // Dropping the service host ends it with its connections; a shutdown signal would wait for
    // them.
    let never = std::future::pending();
    if let Err(reason) = dynoxide::server::serve_with_shutdown(listener, database, never).await {
        tracing::error!(reason, "the embedded DynamoDB stopped serving");
    }
}
