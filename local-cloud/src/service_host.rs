//! Runs one service on threads of its own.
//!
//! Both embedded services leave tasks behind that nobody can reach: dynoxide's
//! connections and rustack's queues. A runtime for each service gathers them
//! all, so that ending the runtime ends the service, and it keeps dynoxide's
//! blocking SQLite calls off the caller's threads.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use crate::error::{Service, StartError};

/// How long a stopping service may finish the calls that hold a thread. Only
/// one SQLite statement at a time can, which takes milliseconds.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// The length of the queue of connections not yet accepted, as in mio.
const BACKLOG: u32 = 1024;

/// A running service. Dropping it closes its listener and its connections, and
/// waits until its threads have ended.
#[derive(Debug)]
pub(crate) struct ServiceHost {
    addr: SocketAddr,
    /// Dropping it is the signal to stop.
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl ServiceHost {
    /// Binds `addr` and runs the future that `serve` makes of the listener and
    /// the address it got. Linux cuts thread names at 15 bytes. Blocks for a moment, and must not
    /// be called on an async thread: a runtime that fails to start may not be dropped there.
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

    /// The address the service listens on, with the port it got.
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
            tracing::error!(addr = %self.addr, "a local cloud service ended with a panic");
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
            // Nothing is ever sent: the sender's end is what is waited for.
            _ = stopped => {}
        }
    });
    runtime.shutdown_timeout(STOP_TIMEOUT);
}

/// Binds with `TCP_NODELAY` on the listener: accepted connections inherit it on
/// Linux and BSD, and dynoxide's accept loop offers no other way. Without it an
/// answer in two segments waits some 40 ms for the client's delayed
/// acknowledgement.
fn bind(addr: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = if addr.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // A restart may take over the port while old connections linger. On Windows
    // the flag would let two programs share the port.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.set_nodelay(true)?;
    socket.bind(addr)?;
    let listener = socket.listen(BACKLOG)?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
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
