//! DynamoDB and DynamoDB Streams: dynoxide over an SQLite file, behind a front
//! that mends what of dynoxide would mislead or slow a developer down.
//!
//! A file rather than memory, because only a file can be opened a second time,
//! and the index that keeps stream writes fast has to be made from outside.

mod child_shards;
mod client_request_tokens;
mod interceptor;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use client_request_tokens::ClientRequestTokens;
use dynoxide::Database;
use interceptor::Interceptor;
use tokio::net::TcpListener;

use crate::connections;
use crate::error::{Service, StartError};
use crate::service_host::ServiceHost;

/// One thread can be in SQLite at a time (dynoxide has one lock); the other
/// reads requests and writes answers meanwhile.
const ENGINE_WORKERS: usize = 2;

/// Its work is small, and never blocks.
const INTERCEPTOR_WORKERS: usize = 1;

/// Every write asks for the highest sequence number of its table, and dynoxide's
/// schema has no index for that: without this one each write reads all stream
/// records (measured in-process: 3,056 transactions/s fall to 217/s within
/// 20,000 records, against a flat 8,000/s). The expression has to be dynoxide's
/// own, or SQLite does not use the index.
const STREAM_INDEX: &str = "CREATE INDEX IF NOT EXISTS local_cloud_stream_records \
     ON _stream_records (table_name, CAST(sequence_number AS INTEGER))";

/// A running DynamoDB.
#[derive(Debug)]
pub(crate) struct DynamoDb {
    // Dropped in this order: no request comes in while the engine ends.
    interceptor: ServiceHost,
    _engine: ServiceHost,
}

impl DynamoDb {
    /// Starts with an empty database in `folder`.
    pub(crate) fn start(addr: SocketAddr, folder: &Path) -> Result<Self, StartError> {
        let internal = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let name = "cloud-engine";
        let engine = ServiceHost::start(
            Service::DynamoDb,
            name,
            internal,
            ENGINE_WORKERS,
            |listener, _| Ok(run_engine(listener, open(&folder.join("dynamodb.sqlite"))?)),
        )?;
        let upstream = engine.addr();
        let name = "cloud-dynamodb";
        let interceptor = ServiceHost::start(
            Service::DynamoDb,
            name,
            addr,
            INTERCEPTOR_WORKERS,
            |listener, _| {
                let tokens = Arc::new(ClientRequestTokens::default());
                let interceptor = move || Interceptor::new(upstream, Arc::clone(&tokens));
                Ok(connections::serve(listener, interceptor))
            },
        )?;
        Ok(Self {
            interceptor,
            _engine: engine,
        })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.interceptor.addr()
    }
}

fn open(file: &Path) -> Result<Database, StartError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| StartError::Database(source);
    let path = file
        .to_str()
        .ok_or_else(|| failed("the temporary folder's path is not Unicode".into()))?;
    let database = Database::new(path).map_err(|e| failed(e.into()))?;
    rusqlite::Connection::open(file)
        .and_then(|second| second.execute_batch(STREAM_INDEX))
        .map_err(|e| failed(e.into()))?;
    // Its name is for imports, but it lasts: above all it turns fsync off, since
    // the data ends with the process anyway (measured in-process: 8,000
    // transactions/s instead of 260/s).
    database
        .enable_bulk_loading()
        .map_err(|e| failed(e.into()))?;
    Ok(database)
}

async fn run_engine(listener: TcpListener, database: Database) {
    // The host ends it, with its connections, which this signal would wait for.
    let never = std::future::pending();
    if let Err(reason) = dynoxide::server::serve_with_shutdown(listener, database, never).await {
        tracing::error!(reason, "the embedded DynamoDB stopped serving");
    }
}
