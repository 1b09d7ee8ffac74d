//! DynamoDB and DynamoDB Streams: dynoxide over an SQLite file, behind an interceptor that corrects
//! differences from AWS.
//!
//! A file rather than memory, because only a file can be opened a second time,
//! and the index that keeps stream writes fast has to be created from outside.

mod child_shards;
mod client_request_tokens;
mod index_replica;
mod interceptor;
mod item_id;
mod partiql;
mod responses;
mod running_transactions;
mod shards;
mod shared;
mod table_schemas;
mod throttle;
mod user_identity;
mod write_operation;
mod writes;
mod written_items;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use dynoxide::Database;
use index_replica::IndexReplica;
use interceptor::{Engines, Interceptor};
use shards::VirtualShards;
pub(crate) use shards::tree::Children;
pub use shards::{MAX_SHARDS, ShardError, ShardOptions};
use shared::Shared;
use tokio::net::TcpListener;

use crate::connections;
use crate::error::{DatabaseError, Service, StartError};
use crate::fidelity::{Fidelity, FidelityControl};
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
pub(crate) struct DynamoDb {
    // Dropped in this order: no request arrives while the engines stop.
    interceptor: ServiceHost,
    _engines: Vec<ServiceHost>,
    shared: Arc<Shared>,
}

impl fmt::Debug for DynamoDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoDb")
            .field("addr", &self.addr())
            .finish_non_exhaustive()
    }
}

impl DynamoDb {
    /// Starts with an empty database in `dir`.
    pub(crate) fn start(
        addr: SocketAddr,
        dir: &Path,
        shards: Option<ShardOptions>,
        fidelity: Fidelity,
    ) -> Result<Self, StartError> {
        let database = open(&dir.join("dynamodb.sqlite"))?;
        let has_replica = fidelity.index_delay.is_some();
        // Without virtual shards, dynoxide answers the requests to streams.
        let is_delayed = fidelity.stream_delay.is_some();
        let fidelity = FidelityControl::new(fidelity);
        let shards = shards
            .or_else(|| is_delayed.then(ShardOptions::default))
            .map(|options| VirtualShards::new(database.clone(), options, fidelity.clone()))
            .map(Arc::new);
        let engine = start_engine("cloud-engine", database.clone())?;
        let mut engines = Engines {
            tables: engine.addr(),
            indexes: None,
        };
        let mut hosts = vec![engine];
        let mut replica = None;
        if has_replica {
            let indexes = open(&dir.join("indexes.sqlite"))?;
            let host = start_engine("cloud-indexes", indexes.clone())?;
            engines.indexes = Some(host.addr());
            hosts.push(host);
            replica = Some(Arc::new(IndexReplica::new(database.clone(), indexes)));
        }
        let shared = Arc::new(Shared::new(database, fidelity, replica, shards));
        let interceptor = ServiceHost::start(
            Service::DynamoDb,
            "cloud-dynamodb",
            addr,
            INTERCEPTOR_WORKERS,
            |listener, _| Ok(run_interceptor(listener, engines, Arc::clone(&shared))),
        )?;
        Ok(Self {
            interceptor,
            _engines: hosts,
            shared,
        })
    }

    /// Returns the virtual shards. Their methods block for the duration of some statements of the
    /// database.
    pub(crate) fn shards(&self) -> Result<Arc<VirtualShards>, ShardError> {
        self.shared.shards.clone().ok_or(ShardError::NotVirtual)
    }

    pub(crate) fn fidelity(&self) -> FidelityControl {
        self.shared.fidelity.clone()
    }

    /// Returns a function that deletes expired items and returns their number. It blocks for the
    /// duration of many statements of the database.
    pub(crate) fn ttl_sweep(&self) -> impl FnOnce() -> Result<usize, DatabaseError> + Send + use<> {
        let shared = Arc::clone(&self.shared);
        move || {
            let swept = shared.sweep_ttl();
            swept.map_err(|error| DatabaseError(error.to_string()))
        }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.interceptor.addr()
    }
}

fn start_engine(name: &str, database: Database) -> Result<ServiceHost, StartError> {
    let internal = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    ServiceHost::start(
        Service::DynamoDb,
        name,
        internal,
        ENGINE_WORKERS,
        |listener, _| Ok(run_engine(listener, database)),
    )
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

async fn run_interceptor(listener: TcpListener, engines: Engines, shared: Arc<Shared>) {
    let interceptor = || Interceptor::new(engines, Arc::clone(&shared));
    let splits = async {
        if let Some(shards) = &shared.shards {
            Arc::clone(shards).split_periodically().await;
        }
    };
    let updates_of_indexes = async {
        if let Some(replica) = &shared.replica {
            let delay = || shared.fidelity.get().index_delay.unwrap_or_default();
            Arc::clone(replica).apply(delay).await;
        }
    };
    tokio::join!(
        connections::serve(listener, interceptor),
        splits,
        updates_of_indexes,
        Arc::clone(&shared).sweep_ttl_periodically(),
    );
}

async fn run_engine(listener: TcpListener, database: Database) {
    // Dropping the service host ends it with its connections; a shutdown signal would wait for
    // them.
    let never = std::future::pending();
    if let Err(reason) = dynoxide::server::serve_with_shutdown(listener, database, never).await {
        tracing::error!(reason, "the embedded DynamoDB stopped serving");
    }
}
