//! Compares docker-compose.yml with the programs: no other check detects a variable that no program
//! reads.

use std::collections::BTreeSet;

use all_in_one::cli::Cli;
use clap::CommandFactory;
use serde_json::{Map, Value};

use crate::support::{repository_file, yaml};

const FILE: &str = "docker-compose.yml";

/// Variables of the AWS SDK and of OpenTelemetry, which the programs do not define themselves.
const FOREIGN: [&str; 7] = [
    "AWS_REGION",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_ENDPOINT_URL_DYNAMODB",
    "AWS_ENDPOINT_URL_DYNAMODB_STREAMS",
    "AWS_ENDPOINT_URL_SQS",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];

/// Compose services that run a program of this repository, each with its sub-command of all-in-one,
/// which has the same options.
const OURS: [&str; 4] = ["provision", "order-api", "outbox-relay", "inventory-worker"];

fn services() -> Map<String, Value> {
    yaml(FILE)["services"].as_object().unwrap().clone()
}

fn texts(list: &Value) -> Vec<&str> {
    let items = list.as_array().into_iter().flatten();
    items.map(|item| item.as_str().unwrap()).collect()
}

/// Substitutes `${NAME:-default}` as compose does for an unset variable.
fn interpolated(value: &str) -> &str {
    let inner = value.strip_prefix("${").and_then(|v| v.strip_suffix('}'));
    match inner.and_then(|inner| inner.split_once(":-")) {
        Some((_, default)) => default,
        None => value,
    }
}

/// Returns the variables that a sub-command reads.
fn variables(command: &str) -> BTreeSet<String> {
    let cli = Cli::command();
    cli.find_subcommand(command)
        .unwrap()
        .get_arguments()
        .filter_map(|argument| Some(argument.get_env()?.to_str()?.to_owned()))
        .collect()
}

#[test]
fn every_variable_is_read_by_its_program() {
    let services = services();
    for name in OURS {
        let known = variables(name);
        assert!(known.contains("SHUTDOWN_GRACE"), "{name}: {known:?}");
        for variable in services[name]["environment"].as_object().unwrap().keys() {
            assert!(
                known.contains(variable) || FOREIGN.contains(&variable.as_str()),
                "{name} does not read {variable}; it reads {known:?}"
            );
        }
    }
}

#[test]
fn every_value_is_accepted_by_its_program() {
    use clap::Parser;

    let services = services();
    for name in OURS {
        let command = services[name]["command"].clone();
        let words: Vec<_> = texts(&command);
        let arguments = match words.split_first().unwrap() {
            (&"all-in-one", arguments) => arguments.to_vec(),
            (program, arguments) => [&[*program], arguments].concat(),
        };
        let cli = Cli::command();
        let options = cli.find_subcommand(name).unwrap();
        let environment = services[name]["environment"].as_object().unwrap();
        // As options, because the environment belongs to the whole test process.
        let as_options = environment.iter().filter_map(|(variable, value)| {
            let option = options.get_arguments().find(|option| {
                option
                    .get_env()
                    .is_some_and(|env| env.to_str() == Some(variable))
            })?;
            Some([
                format!("--{}", option.get_long()?),
                interpolated(value.as_str()?).to_owned(),
            ])
        });
        let line = ["all-in-one"]
            .into_iter()
            .chain(arguments)
            .map(str::to_owned)
            .chain(as_options.flatten());
        if let Err(error) = Cli::try_parse_from(line) {
            panic!("{name}: {error}");
        }
    }
}

#[test]
fn every_program_has_aws_endpoints_and_services_have_an_otlp_endpoint() {
    let services = services();
    for name in OURS {
        let environment = services[name]["environment"].as_object().unwrap();
        for variable in &FOREIGN[..6] {
            assert!(
                environment.contains_key(*variable),
                "{name} has no {variable}"
            );
        }
        let exports = environment.contains_key("OTEL_EXPORTER_OTLP_ENDPOINT");
        assert_eq!(exports, name != "provision", "{name}");
    }
}

#[test]
fn every_image_has_a_version() {
    for (name, service) in services() {
        if OURS.contains(&name.as_str()) {
            assert_eq!(service["build"], ".", "{name}");
            continue;
        }
        let image = service["image"].as_str().unwrap();
        let tag = image
            .rsplit_once(':')
            .map(|(_, tag)| tag.trim_start_matches('v'))
            .unwrap_or_default();
        assert!(
            tag.split('.').count() == 3 && tag.split('.').all(|n| n.parse::<u32>().is_ok()),
            "{name}: {image}"
        );
    }
    let dockerfile = repository_file("Dockerfile");
    for from in dockerfile.lines().filter(|line| line.starts_with("FROM ")) {
        assert!(from.contains(':') && !from.contains("latest"), "{from}");
    }
    assert!(dockerfile.contains("\nUSER "), "the image runs as root");
}

#[test]
fn services_start_after_their_dependencies_and_have_health_checks() {
    let services = services();
    let condition =
        |service: &str, on: &str| services[service]["depends_on"][on]["condition"].clone();
    for on in ["dynamodb", "sqs"] {
        assert_eq!(condition("provision", on), "service_healthy");
    }
    for name in ["order-api", "outbox-relay", "inventory-worker"] {
        // This also makes `up --wait` accept that `provision` exits.
        assert_eq!(
            condition(name, "provision"),
            "service_completed_successfully"
        );
        assert_eq!(condition(name, "jaeger"), "service_healthy");
    }
    for (name, service) in &services {
        for on in service["depends_on"]
            .as_object()
            .into_iter()
            .flat_map(Map::keys)
        {
            assert!(
                services.contains_key(on),
                "{name} depends on {on}, which is not a service"
            );
        }
        let check = &service["healthcheck"]["test"];
        assert_eq!(check.is_array(), name != "provision", "{name}");
    }
}

#[test]
fn ports_match_the_contract_and_are_published_on_loopback_only() {
    let services = services();
    for (name, ports, variables) in [
        ("dynamodb", &["8000"][..], &[][..]),
        ("sqs", &["9324"], &[]),
        ("jaeger", &["16686", "4317"], &[]),
        ("prometheus", &["9090"], &[]),
        ("grafana", &["3000"], &[]),
        (
            "order-api",
            &["8080", "8083"],
            &["ORDER_API_LISTEN", "ORDER_API_ADMIN_LISTEN"],
        ),
        ("outbox-relay", &["8081"], &["RELAY_ADMIN_LISTEN"]),
        ("inventory-worker", &["8082"], &["WORKER_ADMIN_LISTEN"]),
    ] {
        let service = &services[name];
        let published: Vec<_> = ports
            .iter()
            .map(|port| format!("127.0.0.1:{port}:{port}"))
            .collect();
        assert_eq!(texts(&service["ports"]), published, "{name}");
        for (variable, port) in variables.iter().zip(ports) {
            let listens = service["environment"][variable].as_str().unwrap();
            assert_eq!(listens, format!("0.0.0.0:{port}"), "{name}");
        }
        // The last port of a program is its admin port.
        if let (Some(port), false) = (ports.last(), variables.is_empty()) {
            let check = format!("http://127.0.0.1:{port}/readyz");
            assert!(
                texts(&service["healthcheck"]["test"]).contains(&check.as_str()),
                "{name}"
            );
        }
    }
}

#[test]
fn the_console_has_a_token_because_it_is_reachable_from_the_network() {
    let services = services();
    let environment = &services["outbox-relay"]["environment"];
    let listens = environment["RELAY_ADMIN_LISTEN"].as_str().unwrap();
    let listens: std::net::SocketAddr = listens.parse().unwrap();
    assert!(!listens.ip().is_loopback());
    let token = environment["RELAY_ADMIN_TOKEN"].as_str().unwrap();
    assert_eq!(interpolated(token), "local-console-token");
    assert!(interpolated(token).len() >= 16);
}

#[test]
fn the_api_accepts_anonymous_requests_only_because_its_port_is_not_published() {
    let services = services();
    let api = &services["order-api"];
    assert_eq!(api["environment"]["ORDER_API_ANONYMOUS"], "allow");
    for port in texts(&api["ports"]) {
        assert!(port.starts_with("127.0.0.1:"), "{port}");
    }
    // The image is for other places too.
    let image = repository_file("Dockerfile");
    assert!(!image.contains("ORDER_API_ANONYMOUS"));
}

#[test]
fn monitoring_starts_only_with_its_profile() {
    for (name, service) in services() {
        let is_monitoring = ["prometheus", "grafana"].contains(&name.as_str());
        let profiles = texts(&service["profiles"]);
        assert_eq!(profiles == ["monitoring"], is_monitoring, "{name}");
        assert!(is_monitoring || profiles.is_empty(), "{name}");
    }
}

#[test]
fn monitoring_mounts_the_files_of_the_repository() {
    let services = services();
    let mounts = |service: &str| -> Vec<(String, String)> {
        let volumes = services[service]["volumes"].clone();
        let mount = |volume: &&str| {
            let parts: Vec<_> = volume.split(':').collect();
            let [from, to, "ro"] = parts[..] else {
                panic!("{volume}")
            };
            let from = from.strip_prefix("./").unwrap();
            let path = format!("{}/../{from}", env!("CARGO_MANIFEST_DIR"));
            assert!(std::path::Path::new(&path).exists(), "{from}");
            (from.to_owned(), to.to_owned())
        };
        texts(&volumes).iter().map(mount).collect()
    };
    // Path at which the image expects prometheus.yml, which names alerts.yml.
    let prometheus = [("deploy/prometheus".to_owned(), "/etc/prometheus".to_owned())];
    assert_eq!(mounts("prometheus"), prometheus);

    let grafana = mounts("grafana");
    let provisioned = yaml("deploy/grafana/provisioning/dashboards/dashboards.yml");
    let folder = provisioned["providers"][0]["options"]["path"]
        .as_str()
        .unwrap();
    let dashboard = grafana
        .iter()
        .find(|(from, _)| from == "deploy/grafana/dashboard.json");
    let (_, inside) = dashboard.unwrap();
    assert!(inside.starts_with(folder), "{inside} is not in {folder}");
    let home = "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH";
    assert_eq!(services["grafana"]["environment"][home], inside.as_str());
    assert!(
        grafana
            .iter()
            .any(|(_, to)| to == "/etc/grafana/provisioning")
    );
}

#[test]
fn every_program_is_scraped_and_every_data_source_is_a_service() {
    let services = services();
    // The published port is that of the service.
    let serves = |address: &str| {
        let (host, port) = address.split_once(':').unwrap();
        let ports = services[host]["ports"].clone();
        texts(&ports)
            .iter()
            .any(|published| published.ends_with(&format!(":{port}")))
    };
    let scraped = yaml("deploy/prometheus/prometheus.yml");
    let mut jobs = BTreeSet::new();
    for job in scraped["scrape_configs"].as_array().unwrap() {
        let name = job["job_name"].as_str().unwrap();
        let targets = job["static_configs"][0]["targets"].clone();
        for target in texts(&targets) {
            assert!(
                target.starts_with(&format!("{name}:")) && serves(target),
                "{target}"
            );
        }
        jobs.insert(name.to_owned());
    }
    let programs: BTreeSet<_> = OURS[1..].iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(jobs, programs);

    let sources = yaml("deploy/grafana/provisioning/datasources/datasources.yml");
    for source in sources["datasources"].as_array().unwrap() {
        let address = source["url"].as_str().unwrap();
        assert!(
            serves(address.strip_prefix("http://").unwrap()),
            "{address}"
        );
    }
}

/// The build context of the image has no `tests` folder, and cargo rejects a manifest that names a
/// target whose file is missing.
#[test]
fn manifests_name_no_target_that_the_build_context_lacks() {
    let ignored = repository_file(".dockerignore");
    assert!(ignored.lines().any(|line| line == "**/tests"), "{ignored}");
    let manifest = repository_file("Cargo.toml");
    let members = manifest.split_once("members = [").unwrap().1;
    let members = members.split_once(']').unwrap().0;
    for member in members
        .split(',')
        .map(|member| member.trim().trim_matches('"'))
    {
        if !member.is_empty() {
            let manifest = repository_file(&format!("{member}/Cargo.toml"));
            assert!(!manifest.contains("[[test]]"), "{member}/Cargo.toml");
            let folder = member.split('/').next().unwrap();
            let kept = format!("!{folder}");
            assert!(ignored.lines().any(|line| line == kept), "{kept}");
        }
    }
}
