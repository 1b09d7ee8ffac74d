//! HTTP/1.1 server of every program: binding, limits, graceful shutdown.
//!
//! - `connection`: serves one connection.
//! - `connection_table`: the open connections and what each waits for. It closes those whose client
//!   takes too long, and those that have waited longest when there are too many.
//! - [`network`]: which addresses of clients are limited together.
//! - `tracked`: the stream and the bodies of a connection, which report to the table.
//!
//! HTTP/2 is not served: load balancers use HTTP/1.1 towards a service by default, and the bounds
//! here are per connection.

mod connection;
mod connection_table;
pub mod network;
mod tracked;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use self::connection::Connection;
use self::connection_table::ConnectionTable;

/// Connections that the kernel completes before they are accepted; Linux caps it at
/// `net.core.somaxconn`, by default 4,096. A client beyond it repeats its first packet after a
/// second.
const BACKLOG: u32 = 4_096;

/// Connections that may be closing above the limit: those whose places newer ones have taken.
const CLOSING: usize = 64;

/// Size of the buffer in which the kernel keeps what was sent to a client and not acknowledged, of
/// each connection. Linux doubles it for its own records. Without it the kernel keeps up to 4 MiB
/// for a client that reads nothing.
const SEND_BUFFER: u32 = 32 * 1024;

/// Interval between two searches for connections whose client takes too long.
const OVERDUE_INTERVAL: Duration = Duration::from_secs(1);

/// Pause after a failed accept, for example for lack of file descriptors: retrying at once would
/// only occupy a core.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Upper bound on the request line and the headers of a request; a larger head is rejected with
/// 431, like one with more than 100 fields, hyper's own limit.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// Time for which connections are still accepted after the stop, and then for which requests of
/// idle connections are still read. The kernel may have received both already, and would discard
/// them when the listener or the connection is closed.
const LAST_ARRIVALS: Duration = Duration::from_millis(100);

/// Bounds of one server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections.
    pub connections: usize,
    /// Open connections of one address; of one /64 network with IPv6.
    pub connections_per_address: usize,
    /// Bytes of requests that have not arrived completely, of all connections together. Each
    /// request counts with 24 KiB for its buffers in addition to the bytes received.
    pub arriving_bytes: usize,
    /// Time from the start of a request to the end of its body.
    pub arrival_timeout: Duration,
}

impl Limits {
    /// Limits of a port for health checks, metrics and operators.
    pub const ADMIN: Self = Self {
        connections: 256,
        connections_per_address: 128,
        arriving_bytes: 4 * 1024 * 1024,
        arrival_timeout: Duration::from_secs(10),
    };
}

/// Failure to bind a listening address.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source} (is another program using the port?)")]
pub struct BindError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Binds `address` and logs the bound address; port 0 selects any free port.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    let (listener, address) = listen(address)?;
    tracing::info!(%address, "listening");
    Ok(listener)
}

/// Binds the addresses of a program that serves health checks and metrics on a port of their own,
/// and logs both in one line. The second listener is the admin port's.
pub async fn bind_with_admin(
    address: SocketAddr,
    admin_address: SocketAddr,
) -> Result<(TcpListener, TcpListener), BindError> {
    let (listener, address) = listen(address)?;
    let (admin_listener, admin_address) = listen(admin_address)?;
    tracing::info!(%address, %admin_address, "listening");
    Ok((listener, admin_listener))
}

fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), BindError> {
    let listen = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        // Otherwise the connections of the previous process keep the port for a minute.
        socket.set_reuseaddr(true)?;
        // Accepted connections inherit it.
        socket.set_send_buffer_size(SEND_BUFFER)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    listen().map_err(|source| BindError { address, source })
}

/// A server that is not running yet.
#[derive(Debug)]
pub struct Server {
    pub listener: TcpListener,
    pub router: Router,
    pub limits: Limits,
    /// Cancelled when the clients should move to another instance: from then on each response has
    /// `Connection: close`.
    pub draining: CancellationToken,
    /// Cancelled to stop the server.
    pub stop: CancellationToken,
}

impl Server {
    /// Serves until [`Server::stop`] is cancelled, then lets the requests that have arrived finish,
    /// however long they take. Idle connections are closed within a fraction of a second, and
    /// partially sent requests a second later. Dropping the future closes every connection.
    ///
    /// Each request has the client's address as an extension, `ConnectInfo<SocketAddr>`.
    pub async fn serve(self) {
        let Self {
            listener,
            limits,
            stop,
            ..
        } = &self;
        let table = Arc::new(ConnectionTable::new(*limits));
        let mut connections = JoinSet::new();
        let mut overdue = interval(OVERDUE_INTERVAL);
        overdue.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                (stream, address) = accept(listener), if connections.len() < limits.connections + CLOSING => {
                    self.start(stream, address, &table, &mut connections);
                }
                // Ended connections release their capacity.
                Some(_) = connections.join_next() => {}
                _ = overdue.tick(), if !connections.is_empty() => {
                    table.close_overdue(Instant::now());
                }
            }
        }
        let last_arrivals = sleep(LAST_ARRIVALS);
        tokio::pin!(last_arrivals);
        loop {
            tokio::select! {
                (stream, address) = accept(listener) => {
                    self.start(stream, address, &table, &mut connections);
                }
                () = &mut last_arrivals => break,
            }
        }
        drop(self);
        while !connections.is_empty() {
            tokio::select! {
                _ = connections.join_next() => {}
                _ = overdue.tick() => table.close_overdue(Instant::now()),
            }
        }
    }

    fn start(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        table: &Arc<ConnectionTable>,
        connections: &mut JoinSet<()>,
    ) {
        let Some(slot) = table.admit(address, Instant::now()) else {
            tracing::debug!(%address, "connection refused: too many requests of this address");
            return;
        };
        let connection = Connection {
            address,
            slot: Arc::new(slot),
            router: self.router.clone(),
            draining: self.draining.clone(),
            stop: self.stop.clone(),
        };
        connections.spawn(connection.serve(stream));
    }
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed; retrying");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
