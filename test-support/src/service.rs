//! A service under test as in production: a separate process, configured by environment variables
//! and controlled by signals.

use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::watch;

use super::PATIENCE;
use super::child_process::Process;

/// A running service; killed when dropped.
#[derive(Debug)]
pub struct Service {
    process: Process,
    addresses: Addresses,
    log: Arc<Mutex<Vec<String>>>,
}

/// The addresses on which a service listens.
#[derive(Clone, Copy, Debug)]
struct Addresses {
    address: SocketAddr,
    /// The same address, if health checks and metrics have no port of their own.
    admin: SocketAddr,
}

/// Reason why a service did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error("the process could not be started: {0}")]
    Spawn(#[from] io::Error),
    #[error("the process did not listen in time; its log:\n{0}")]
    NotListening(String),
}

impl Service {
    /// Starts `program` with `environment` in addition to the environment of this process, and
    /// waits until its first server listens. Its listening addresses should be `127.0.0.1:0`.
    pub async fn start<K: AsRef<OsStr>, V: AsRef<OsStr>>(
        program: impl AsRef<OsStr>,
        arguments: &[&str],
        environment: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, ServiceError> {
        let mut process = Process::spawn(
            Command::new(program)
                .args(arguments)
                .envs(environment)
                .env("LOG_FORMAT", "json")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped()),
        )?;
        let stderr = process
            .take_log()
            .ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe))?;
        let log = Arc::new(Mutex::new(Vec::new()));
        let (found, mut listening) = watch::channel(None);
        let lines = Arc::clone(&log);
        // Ends with the process, which closes its standard error.
        tokio::spawn(async move {
            let mut reader = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = reader.next_line().await {
                if let Some(addresses) = listening_addresses(&line) {
                    found.send_if_modified(|first| {
                        let is_first = first.is_none();
                        first.get_or_insert(addresses);
                        is_first
                    });
                }
                if let Ok(mut lines) = lines.lock() {
                    lines.push(line);
                }
            }
        });
        let addresses = tokio::time::timeout(PATIENCE, listening.wait_for(Option::is_some)).await;
        let addresses = match addresses {
            Ok(Ok(addresses)) => *addresses,
            _ => None,
        };
        match addresses {
            Some(addresses) => Ok(Self {
                process,
                addresses,
                log,
            }),
            None => Err(ServiceError::NotListening(joined(&log))),
        }
    }

    /// Returns `http://ADDRESS` followed by `path`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addresses.address)
    }

    /// Returns `http://ADDRESS` followed by `path`, for health checks and metrics.
    pub fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addresses.admin)
    }

    pub fn address(&self) -> SocketAddr {
        self.addresses.address
    }

    pub fn admin_address(&self) -> SocketAddr {
        self.addresses.admin
    }

    /// Returns `None` once the process has ended.
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// Returns the log so far, one JSON object per line.
    pub fn log(&self) -> String {
        joined(&self.log)
    }

    /// Sends SIGKILL and waits for the end of the process.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.process.kill().await
    }

    /// Sends SIGTERM without waiting.
    pub fn signal_stop(&self) -> io::Result<()> {
        self.process.signal(Signal::SIGTERM)
    }

    /// Sends SIGTERM and waits for the end of the process, at most [`PATIENCE`].
    pub async fn terminate(&mut self) -> io::Result<ExitStatus> {
        self.signal_stop()?;
        tokio::time::timeout(PATIENCE, self.process.ended())
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, joined(&self.log)))?
    }
}

fn joined(log: &Mutex<Vec<String>>) -> String {
    log.lock().map(|lines| lines.join("\n")).unwrap_or_default()
}

fn listening_addresses(line: &str) -> Option<Addresses> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let parse = |name: &str| line.get(name)?.as_str()?.parse().ok();
    if line.get("message")? != "listening" {
        return None;
    }
    let address = parse("address")?;
    let admin = parse("admin_address").unwrap_or(address);
    Some(Addresses { address, admin })
}
