//! `all-in-one up` as a process, with free ports and a temporary folder of its
//! own.

use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use test_support::{PATIENCE, eventually};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

use super::{ANY, BINARY};

/// Environment variables of the addresses on which `up` listens.
const LISTEN: [&str; 6] = [
    "ALL_IN_ONE_DYNAMODB_LISTEN",
    "ALL_IN_ONE_SQS_LISTEN",
    "ORDER_API_LISTEN",
    "ORDER_API_ADMIN_LISTEN",
    "RELAY_ADMIN_LISTEN",
    "WORKER_ADMIN_LISTEN",
];

pub(crate) struct Up {
    child: Child,
    folder: TempDir,
    output: Lines,
    log: Lines,
}

type Lines = Arc<Mutex<Vec<String>>>;

impl Up {
    /// Starts it without waiting.
    pub(crate) fn spawn(environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(BINARY)
            .envs(LISTEN.map(|name| (name, ANY)))
            .env("LOG_FORMAT", "json")
            .env("TMPDIR", folder.path())
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            output: collect(child.stdout.take().unwrap()),
            log: collect(child.stderr.take().unwrap()),
            child,
            folder,
        }
    }

    /// Starts it and waits until it has printed its addresses.
    pub(crate) async fn start(environment: &[(&str, &str)]) -> Self {
        let up = Self::spawn(environment);
        let ready = eventually(PATIENCE, || async {
            if up.output().contains("Stop everything") {
                Ok(())
            } else {
                Err(format!("not ready:\n{}\n{}", up.output(), up.log()))
            }
        });
        ready.await.unwrap();
        up
    }

    /// Returns its standard output.
    pub(crate) fn output(&self) -> String {
        self.output.lock().unwrap().join("\n")
    }

    /// Returns the log of the process and its children.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Returns the address of `name` in the printed table.
    pub(crate) fn url(&self, name: &str) -> String {
        let output = self.output();
        let line = output
            .lines()
            .find(|line| line.trim_start().starts_with(name))
            .unwrap_or_else(|| panic!("no {name} in:\n{output}"));
        let start = line.find("http://").unwrap();
        let url = line[start..].split_whitespace().next().unwrap();
        let end = url[7..].find('/').map_or(url.len(), |path| path + 7);
        url[..end].to_owned()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Returns the pids of a service so far, the latest last.
    pub(crate) fn pids_of(&self, service: &str) -> Vec<u32> {
        let is_start = |line: &Value| {
            line["message"] == "service started" && line["service"].as_str() == Some(service)
        };
        self.log()
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(is_start)
            .map(|line| u32::try_from(line["pid"].as_u64().unwrap()).unwrap())
            .collect()
    }

    /// Returns the pids of all children so far.
    pub(crate) fn children(&self) -> Vec<u32> {
        ["order-api", "outbox-relay", "inventory-worker"]
            .iter()
            .flat_map(|service| self.pids_of(service))
            .collect()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        super::signal(self.pid(), signal);
    }

    /// Waits for the end of the process.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended
            .unwrap_or_else(|_| panic!("still runs:\n{}", self.log()))
            .unwrap()
    }

    /// Returns the files that it left.
    pub(crate) fn leftovers(&self) -> Vec<std::path::PathBuf> {
        std::fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect()
    }

    pub(crate) fn dynamodb(&self) -> aws_sdk_dynamodb::Client {
        use aws_sdk_dynamodb::config::{BehaviorVersion, Config, Credentials, Region};
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("local", "local", None, None, "test"))
            .endpoint_url(self.url("DynamoDB"))
            .build();
        aws_sdk_dynamodb::Client::from_conf(config)
    }
}

/// Collects lines until the other side closes.
fn collect(from: impl AsyncRead + Send + Unpin + 'static) -> Lines {
    let lines = Lines::default();
    let gathered = Arc::clone(&lines);
    tokio::spawn(async move {
        let mut from = BufReader::new(from).lines();
        while let Ok(Some(line)) = from.next_line().await {
            gathered.lock().unwrap().push(line);
        }
    });
    lines
}
