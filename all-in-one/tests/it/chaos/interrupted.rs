//! Interrupted runs.

use std::time::Duration;

use nix::sys::signal::Signal;
use test_support::{PATIENCE, eventually};
use tokio::net::TcpListener;

use super::{alone, chaos};
use crate::support::{runs, signal};

/// Time limit for the end, far below the timeouts of the requests.
const FORCED_WITHIN: Duration = Duration::from_secs(4);

/// Number of processes: API, two relays, two workers.
const PROCESSES: usize = 5;

#[tokio::test]
async fn ctrl_c_ends_the_run_and_every_process() {
    let _alone = alone().await;
    let folder = tempfile::tempdir().unwrap();
    // No process is killed, so the processes found at one moment are those that must have exited in
    // the end.
    let arguments = ["--duration", "10m", "--faults", "latency", "--rate", "10"];
    let child = chaos(&arguments, &folder).spawn().unwrap();
    let pid = child.id().unwrap();
    let started = eventually(PATIENCE, || async {
        match children(pid) {
            children if children.len() == PROCESSES => Ok(children),
            children => Err(children),
        }
    });
    let children = started.await.unwrap();

    signal(pid, Signal::SIGINT);
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output());
    let output = output.await.expect("it still runs").unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("interrupted"), "{stderr}");
    for child in children {
        assert!(!runs(child), "{child} still runs");
    }
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name != "logs")
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_second_ctrl_c_ends_the_run_despite_an_unresponsive_service() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--dynamodb-endpoint", &url, "--sqs-endpoint", &url];
    let mut child = chaos(&arguments, &folder).spawn().unwrap();
    let pid = child.id().unwrap();
    let connected = tokio::time::timeout(PATIENCE, silent.accept());
    let _never_answered = connected
        .await
        .expect("it connects to the service")
        .unwrap();

    // Signals in quick succession count as one, so several are sent.
    let ended = eventually(FORCED_WITHIN, || {
        signal(pid, Signal::SIGINT);
        let ended = child.try_wait().unwrap();
        async move { ended.ok_or("it still runs") }
    });
    assert_eq!(ended.await.unwrap().code(), Some(1));
    let output = child.wait_with_output().await.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("interrupted"), "{stderr}");
    // The message names the resources that may remain.
    assert!(stderr.contains("-chaos-"), "{stderr}");
}

/// Returns the pids of the children of a process.
fn children(pid: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter();
    let lists = threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("children")).ok());
    let pids = lists.collect::<Vec<_>>().join(" ");
    pids.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}
