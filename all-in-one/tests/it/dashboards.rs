//! Compares alerts, dashboard and runbook with each other and with the documented metrics, which
//! `metrics` compares with the programs: a query for a metric that no program exports shows nothing
//! and never fails.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use promql_parser::parser::{Expr, VectorSelector};
use promql_parser::util::{ExprVisitor, walk_expr};
use serde_json::Value;

use crate::support::{Metric, OPERATIONS, catalogue, repository_file, yaml};

const ALERTS: &str = "deploy/prometheus/alerts.yml";
const ALERT_TESTS: &str = "deploy/prometheus/alerts_test.yml";
const DASHBOARD: &str = "deploy/grafana/dashboard.json";
const DATA_SOURCES: &str = "deploy/grafana/provisioning/datasources/datasources.yml";

/// Labels that Prometheus adds to every series of a target.
const TARGET_LABELS: [&str; 2] = ["instance", "job"];

struct Alert {
    name: String,
    expression: String,
    severity: String,
    runbook: String,
}

fn alerts() -> Vec<Alert> {
    let file = yaml(ALERTS);
    let groups = file["groups"].as_array().unwrap().iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    rules
        .map(|rule| Alert {
            name: text(&rule["alert"]),
            expression: text(&rule["expr"]),
            severity: text(&rule["labels"]["severity"]),
            runbook: text(&rule["annotations"]["runbook"]),
        })
        .collect()
}

fn dashboard() -> Value {
    serde_json::from_str(&repository_file(DASHBOARD)).unwrap()
}

/// Returns every object of a document that has the member `name`.
fn with_member<'a>(value: &'a Value, name: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| with_member(item, name, found)),
        Value::Object(members) => {
            if members.contains_key(name) {
                found.push(value);
            }
            members
                .values()
                .for_each(|member| with_member(member, name, found));
        }
        _ => {}
    }
}

/// Returns the queries of the dashboard, with its variables replaced.
fn queries() -> Vec<String> {
    let dashboard = dashboard();
    let mut targets = Vec::new();
    with_member(&dashboard, "expr", &mut targets);
    targets
        .into_iter()
        .map(|target| {
            let query = target["expr"].as_str().unwrap();
            let query = query
                .replace("$__rate_interval", "1m")
                .replace("$__range", "1h");
            assert!(!query.contains('$'), "{query}");
            query
        })
        .collect()
}

/// Metrics and labels that a query uses.
#[derive(Default)]
struct Named {
    /// Names of series, each with the labels it is selected by.
    series: Vec<(String, Vec<String>)>,
    /// Labels for grouping and joining.
    labels: Vec<String>,
}

impl Named {
    fn by(query: &str) -> Self {
        let expression = promql_parser::parser::parse(query);
        let expression = expression.unwrap_or_else(|error| panic!("{query}: {error}"));
        let mut named = Self::default();
        walk_expr(&mut named, &expression).unwrap();
        named
    }

    fn select(&mut self, selector: &VectorSelector) {
        let name = selector.name.clone().unwrap();
        let matchers = selector.matchers.matchers.iter();
        let labels = matchers.map(|matcher| matcher.name.clone());
        self.series.push((name, labels.collect()));
    }
}

impl ExprVisitor for Named {
    type Error = Infallible;

    fn pre_visit(&mut self, expression: &Expr) -> Result<bool, Infallible> {
        let modifier = match expression {
            Expr::Aggregate(aggregate) => aggregate.modifier.as_ref(),
            Expr::Binary(binary) => binary.modifier.as_ref().and_then(|m| m.matching.as_ref()),
            _ => None,
        };
        if let Some(modifier) = modifier {
            self.labels.extend(modifier.labels().labels.iter().cloned());
        }
        match expression {
            Expr::VectorSelector(selector) => self.select(selector),
            Expr::MatrixSelector(range) => self.select(&range.vs),
            _ => {}
        }
        Ok(true)
    }
}

/// Returns the labels of the series `name`, or `None` if it does not exist.
fn labels_of(name: &str, documented: &BTreeMap<String, Metric>) -> Option<BTreeSet<String>> {
    let mut labels: BTreeSet<_> = TARGET_LABELS.map(str::to_owned).into();
    // Produced by Prometheus itself.
    match name {
        "up" => return Some(labels),
        "ALERTS" => {
            labels.extend(["alertname", "alertstate", "severity"].map(str::to_owned));
            return Some(labels);
        }
        _ => {}
    }
    let parts = ["_bucket", "_sum", "_count"];
    let part = parts
        .iter()
        .find_map(|part| Some((name.strip_suffix(part)?, *part)));
    let metric = match part {
        Some((name, part)) => {
            let metric = documented.get(name).filter(|m| m.kind == "histogram")?;
            if part == "_bucket" {
                labels.insert("le".to_owned());
            }
            metric
        }
        None => documented.get(name).filter(|m| m.kind != "histogram")?,
    };
    labels.extend(metric.labels.iter().cloned());
    Some(labels)
}

#[test]
fn every_query_uses_exported_metrics() {
    let documented = catalogue();
    let alerts = alerts().into_iter().map(|alert| alert.expression);
    for query in alerts.chain(queries()) {
        let named = Named::by(&query);
        let mut known = BTreeSet::new();
        for (name, selected_by) in named.series {
            let labels = labels_of(&name, &documented)
                .unwrap_or_else(|| panic!("no program exports {name}: {query}"));
            for label in selected_by {
                assert!(labels.contains(&label), "{name} has no {label}: {query}");
            }
            known.extend(labels);
        }
        for label in named.labels {
            assert!(known.contains(&label), "no series has {label}: {query}");
        }
    }
}

#[test]
fn every_metric_is_on_the_dashboard() {
    let queries = queries();
    let shown: BTreeSet<_> = queries
        .iter()
        .flat_map(|query| Named::by(query).series)
        .map(|(name, _)| name)
        .collect();
    for (name, metric) in catalogue() {
        let series = match metric.kind.as_str() {
            "histogram" => format!("{name}_bucket"),
            _ => name,
        };
        assert!(shown.contains(&series), "{series} is on no panel");
    }
}

#[test]
fn the_dashboard_uses_the_provisioned_data_source() {
    let sources = yaml(DATA_SOURCES);
    let sources = sources["datasources"].as_array().unwrap();
    let uids: BTreeSet<_> = sources.iter().map(|s| s["uid"].as_str().unwrap()).collect();
    let dashboard = dashboard();
    let mut asking = Vec::new();
    with_member(&dashboard, "datasource", &mut asking);
    assert!(asking.len() > 20);
    for panel in asking {
        let uid = panel["datasource"]["uid"].as_str().unwrap();
        assert!(uids.contains(uid), "{uid} is none of {uids:?}");
    }
}

#[test]
fn panels_do_not_overlap() {
    let dashboard = dashboard();
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = &panel["title"];
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        let side = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        for x in side("x")..side("x") + side("w") {
            assert!(x < 24, "{title} is wider than the page");
            for y in side("y")..side("y") + side("h") {
                assert!(taken.insert((x, y)), "{title} covers another panel");
            }
        }
    }
}

#[test]
fn every_alert_has_a_runbook_section_and_a_test() {
    let runbook = repository_file(OPERATIONS);
    let section = runbook
        .split("\n## ")
        .find_map(|section| section.strip_prefix("Alerts\n"))
        .unwrap();
    let headings = section.lines().filter_map(|line| line.strip_prefix("### "));
    let alerts = alerts();
    let names: Vec<_> = alerts.iter().map(|alert| alert.name.as_str()).collect();
    assert_eq!(headings.collect::<Vec<_>>(), names, "in this order");

    let tests = repository_file(ALERT_TESTS);
    for alert in &alerts {
        let anchor = format!("docs/operations.md#{}", alert.name.to_lowercase());
        assert_eq!(alert.runbook, anchor);
        assert!(["page", "ticket"].contains(&alert.severity.as_str()));
        let fires = format!("- {{ labels: '{{alertname=\"{}\"", alert.name);
        assert!(tests.contains(&fires), "no test sees {} fire", alert.name);
    }
}
