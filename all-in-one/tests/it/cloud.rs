//! `cloud`: DynamoDB and SQS alone, for programs started by hand.

use std::process::Stdio;

use nix::sys::signal::Signal;
use test_support::PATIENCE;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::support::{ANY, BINARY, signal};

#[tokio::test]
async fn the_printed_variables_configure_another_program_for_the_cloud() {
    let folder = tempfile::tempdir().unwrap();
    let mut cloud = Command::new(BINARY)
        .args(["cloud", "--dynamodb-listen", ANY, "--sqs-listen", ANY])
        .env("TMPDIR", folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(cloud.stdout.take().unwrap()).lines();
    let mut variables = Vec::new();
    while variables.len() < 6 {
        let line = tokio::time::timeout(PATIENCE, lines.next_line())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        if let Some((name, value)) = line
            .strip_prefix("export ")
            .and_then(|line| line.split_once('='))
        {
            variables.push((name.to_owned(), value.to_owned()));
        }
    }
    let provisioned = Command::new(BINARY)
        .arg("provision")
        .envs(variables)
        .output()
        .await
        .unwrap();
    assert!(provisioned.status.success(), "{provisioned:?}");

    signal(cloud.id().unwrap(), Signal::SIGINT);
    let ended = tokio::time::timeout(PATIENCE, cloud.wait())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(ended.code(), Some(0));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
