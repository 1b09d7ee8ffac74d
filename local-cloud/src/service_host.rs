//! Runs one service on its own threads.
//!
//! Both embedded services spawn tasks without returning a handle: dynoxide's connections and
//! rustack's queues. Each service has its own runtime, which owns these tasks: shutting the runtime
//! down ends the service. It also keeps dynoxide's blocking SQLite calls off the caller's threads.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use crate::error::{Service, StartError};

/// Time limit for the blocking calls of a stopping service. There is at most one, an SQLite
/// statement, which takes milliseconds.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Length of the queue of connections that are not accepted yet. Source: mio.
const BACKLOG: u32 = 1024;

/// A running service. Dropping it closes its listener and its connections, and blocks until its
/// threads have ended.
#[derive(Debug)]
pub(crate) struct ServiceHost {
    addr: SocketAddr,
    /// Dropping it is the signal to stop.
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl ServiceHost {
    /// Binds `addr` and runs the future that `serve` returns for the listener and its address.
    /// Linux truncates thread names to 15 bytes. Blocks for a moment. Must not be called on an
    /// async thread: if a step fails, the runtime is dropped, which panics there.
    pub(crate) fn start<F>(
        service: Service,
        thread_name: &str,
        addr: SocketAddr,
        workers: usize,
        serve: impl FnOnce(TcpListener, SocketAddr) -> Result<F, StartError>,
    ) -> Result<Self, StartError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let threads = |source| StartError::Threads { service, source };
        let runtime = Builder::new_multi_thread()
            .worker_threads(workers)
            .thread_name(thread_name)
            .enable_all()
            .build()
            .map_err(threads)?;

        // Sockets register with the runtime whose context they are made in.
        let context = runtime.enter();
        let (listener, bound) = bind(addr).map_err(|source| StartError::Bind {
            service,
            addr,
            source,
        })?;
        let serving = serve(listener, bound)?;
        drop(context);

        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name(thread_name.to_owned())
            .spawn(move || run(runtime, serving, stopped))
            .map_err(threads)?;
        Ok(Self {
            addr: bound,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Returns the listening address, with the assigned port.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for ServiceHost {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(addr = %self.addr, "a service of the local cloud panicked");
        }
    }
}

fn run(
    runtime: Runtime,
    serving: impl Future<Output = ()>,
    stopped: oneshot::Receiver<Infallible>,
) {
    runtime.block_on(async {
        tokio::select! {
            () = serving => {}
            // No value is ever sent: dropping the sender ends the wait.
            _ = stopped => {}
        }
    });
    runtime.shutdown_timeout(STOP_TIMEOUT);
}

/// Binds with `TCP_NODELAY` on the listener: accepted connections inherit it on Linux and BSD, and
/// dynoxide's accept loop has no other way to set it. Without it, a response in two segments is
/// delayed by some 40 ms until the client's delayed acknowledgement.
fn bind(addr: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = if addr.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // Permits a restart to bind the port while old connections are in TIME_WAIT. On Windows the
    // option would let two programs share the port.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.set_nodelay(true)?;
    socket.bind(addr)?;
    let listener = socket.listen(BACKLOG)?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

/// Returns the address to connect to. A wildcard address is replaced by the loopback address of its
/// family, because not every system can connect to a wildcard address.
pub(crate) fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(any(target_os = "linux", target_os = "macos"))]
    #[tokio::test]
    async fn accepted_connections_inherit_no_delay() {
        let (listener, addr) = bind(([127, 0, 0, 1], 0).into()).unwrap();
        let client = tokio::net::TcpStream::connect(addr);
        let (_client, accepted) = tokio::join!(client, listener.accept());
        assert!(accepted.unwrap().0.nodelay().unwrap());
    }
}
