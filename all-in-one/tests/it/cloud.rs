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

#[tokio::test]
async fn invalid_shard_options_are_reported_in_one_sentence_with_exit_code_64() {
    for command in ["cloud", "up"] {
        for (option, value) in [
            ("--shards", "0"),
            ("--shards", "65"),
            ("--split-every", "99ms"),
            ("--split-every", "often"),
            ("--trim-after", "25h"),
        ] {
            let output = Command::new(BINARY)
                .args([command, option, value])
                .output()
                .await
                .unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(
                output.status.code(),
                Some(64),
                "{command} {option} {value}: {stderr}"
            );
            assert_eq!(stderr.trim().lines().count(), 1, "{stderr}");
            assert!(stderr.contains(option), "{option} {value}: {stderr}");
        }
    }
}
