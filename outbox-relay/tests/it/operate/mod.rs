//! The operators' commands, run as processes, as a person or a script runs them.

mod blocked;
mod bulk;
mod change;
mod dead_letters;
mod interruption;
mod list_and_show;
mod status;
mod terminal;

use std::process::Stdio;

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::Value;
use test_support::Service;

use crate::support::{Item, RELAY, Stage, event, text};

/// Environment of a relay that sweeps often, so that retried events are published at once, and
/// whose leases expire soon.
const QUICK: [(&str, &str); 3] = [
    ("RELAY_SWEEP_INTERVAL", "300ms"),
    ("RELAY_SWEEP_AFTER", "100ms"),
    ("RELAY_LEASE_DURATION", "1s"),
];

/// Exit code and output of a command.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    stderr: String,
}

impl Ran {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Returns the first word of each line of a table, without the header.
    fn first_column(&self) -> Vec<&str> {
        let lines = self.stdout.lines().skip(1);
        lines
            .filter_map(|line| line.split_whitespace().next())
            .collect()
    }
}

impl Stage {
    /// Runs `outbox-relay` with `arguments` and its output in pipes.
    pub(crate) async fn operate(&self, arguments: &[&str]) -> Ran {
        self.operate_with(&[], arguments).await
    }

    async fn operate_with(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Ran {
        let output = tokio::process::Command::new(RELAY)
            .args(arguments)
            .envs(self.cloud.env())
            .env("RELAY_LEASE_DURATION", "1s")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    async fn quick_relay(&self, name: &str) -> Service {
        let mut environment = QUICK.to_vec();
        environment.push(("RELAY_INSTANCE_ID", name));
        self.relay(&environment).await
    }
}

/// Returns a quarantined event.
fn failed(aggregate_id: &str, sequence: u64, failure: &str) -> Item {
    let mut item = event(aggregate_id, sequence);
    for (name, value) in [
        ("status", "FAILED"),
        ("state_bucket", "FAILED"),
        ("failure", failure),
        ("failed_at", "2026-01-31T08:15:31.000Z"),
        ("occurred_at", "2026-01-31T08:15:30.000Z"),
    ] {
        item.insert(name.to_owned(), text(value));
    }
    item.insert("attempts".to_owned(), AttributeValue::N("3".to_owned()));
    item
}

/// Returns a published event.
fn published(aggregate_id: &str, sequence: u64) -> Item {
    let mut item = event(aggregate_id, sequence);
    item.remove("state_bucket");
    for (name, value) in [
        ("status", "PUBLISHED"),
        ("message_id", "m-1"),
        ("published_at", "2026-01-31T08:15:31.000Z"),
        ("occurred_at", "2026-01-31T08:15:30.000Z"),
    ] {
        item.insert(name.to_owned(), text(value));
    }
    item.insert(
        "expires_at".to_owned(),
        AttributeValue::N("4102444800".to_owned()),
    );
    item
}

/// Returns `item` with `name` set to `value`.
fn with(mut item: Item, name: &str, value: &str) -> Item {
    item.insert(name.to_owned(), text(value));
    item
}
