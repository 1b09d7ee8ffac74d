//! The metrics documented in docs/operations.md: the list with which the programs, the alerts and
//! the dashboard are compared.

use std::collections::{BTreeMap, BTreeSet};

use super::repository_file;

/// The runbook.
pub(crate) const OPERATIONS: &str = "docs/operations.md";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Metric {
    /// `counter`, `gauge` or `histogram`.
    pub(crate) kind: String,
    pub(crate) labels: BTreeSet<String>,
    /// The service that exports it.
    pub(crate) service: String,
}

/// Returns every documented metric by its name.
pub(crate) fn catalogue() -> BTreeMap<String, Metric> {
    let text = repository_file(OPERATIONS);
    let section = text
        .split("\n## ")
        .find_map(|section| section.strip_prefix("Metrics\n"))
        .unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let metrics: BTreeMap<_, _> = rows
        .map(|row| {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            let [_, name, kind, labels, service, ..] = cells[..] else {
                panic!("{row}")
            };
            let labels = labels.split(", ").filter(|label| !label.is_empty());
            let metric = Metric {
                kind: kind.to_owned(),
                labels: labels.map(unquoted).collect(),
                service: service.to_owned(),
            };
            (unquoted(name), metric)
        })
        .collect();
    assert!(metrics.len() > 10, "{metrics:?}");
    metrics
}

fn unquoted(code: &str) -> String {
    code.trim_matches('`').to_owned()
}
