#!/usr/bin/env python3
"""Checks a chart and reports its problems: chart.py [CHART]

Lints and renders it with the values of each example, compares the result with the schemas of the
oldest and the newest supported Kubernetes, and with what the programs and this repository expect:
the alerts of deploy/prometheus, the variables that the programs read, and the time they take to
stop. Run it by deploy/helm/check, which installs what it needs.

Exit code 0: no problems; 1: problems.
"""

import copy
import os
import pathlib
import re
import subprocess
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/dynamodb-outbox"
EXAMPLES = sorted((ROOT / "deploy/helm/examples").glob("*.yaml"))
# The folder of schemas has one for each version.
SCHEMAS = pathlib.Path(os.environ["CHART_SCHEMAS"])
VERSIONS = sorted(folder.name for folder in SCHEMAS.glob("[0-9]*"))
ADMIN_PORTS = {"order-api": 8083, "outbox-relay": 8081, "inventory-worker": 8082}
# Beyond draining and SHUTDOWN_GRACE: work that exceeds it ends after 2 s, and telemetry is flushed
# for up to 5 s.
STOP_SECONDS = 7
# Variables of the AWS SDK, OpenTelemetry and tracing-subscriber.
LIBRARY_VARIABLES = re.compile(r"AWS_|OTEL_|RUST_LOG$")


def run(*command, text=None):
    """Runs a command and returns whether it succeeded, what it printed, and its errors."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    return done.returncode == 0, done.stdout, done.stderr


def documents(rendered):
    return [document for document in yaml.safe_load_all(rendered) if document]


def pods(manifests):
    """Yields the program, the pod and the container of each Deployment."""
    for manifest in manifests:
        if manifest["kind"] == "Deployment":
            pod = manifest["spec"]["template"]["spec"]
            yield pod["containers"][0]["name"], pod, pod["containers"][0]


def variables(container):
    return {entry["name"]: entry.get("value") for entry in container["env"]}


def seconds(duration):
    return int(re.fullmatch(r"(\d+)s", duration)[1])


def is_selected(selector, labels):
    return selector.items() <= labels.items()


# The checks of what was rendered. Each yields a problem in one sentence.


def pods_are_restricted(manifests):
    """The profile `restricted` of the Pod Security Standards, and a read-only root file system."""
    for program, pod, container in pods(manifests):
        context = pod["securityContext"]
        own = container["securityContext"]
        expected = {
            "a numeric user other than root": context.get("runAsUser", 0) > 0 and context.get("runAsNonRoot"),
            "seccompProfile RuntimeDefault": context.get("seccompProfile") == {"type": "RuntimeDefault"},
            "a read-only root file system": own.get("readOnlyRootFilesystem") is True,
            "no privilege escalation": own.get("allowPrivilegeEscalation") is False,
            "no capabilities": own.get("capabilities") == {"drop": ["ALL"]},
            "no token of the Kubernetes API": pod.get("automountServiceAccountToken") is False,
            "a memory limit": "memory" in container["resources"].get("limits", {}),
        }
        for name, holds in expected.items():
            if not holds:
                yield f"{program} does not have {name}"


def probes_use_the_admin_port(manifests):
    for program, _pod, container in pods(manifests):
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        if ports["admin"] != ADMIN_PORTS[program]:
            yield f"the admin port of {program} is {ports['admin']} instead of {ADMIN_PORTS[program]}"
        listening = {int(value.rpartition(":")[2]) for name, value in variables(container).items() if name.endswith("_LISTEN")}
        if listening != set(ports.values()):
            yield f"{program} listens on {sorted(listening)}, and its ports are {sorted(ports.values())}"
        for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
            # The liveness probe may be switched off.
            if probe in container and container[probe]["httpGet"] != {"path": path, "port": "admin"}:
                yield f"{probe} of {program} does not request {path} of the admin port"


def pods_have_time_to_stop(manifests):
    for program, pod, container in pods(manifests):
        values = variables(container)
        needed = seconds(values["SHUTDOWN_GRACE"]) + seconds(values.get("ORDER_API_DRAIN_DELAY", "0s")) + STOP_SECONDS
        if pod["terminationGracePeriodSeconds"] < needed:
            yield f"{program} may take {needed} s to stop, and has {pod['terminationGracePeriodSeconds']} s"


def variables_exist(manifests):
    sources = "\n".join(file.read_text(encoding="utf-8") for file in ROOT.glob("*/src/**/*.rs"))
    known = set(re.findall(r'\benv = "(\w+)"', sources))
    for program, _pod, container in pods(manifests):
        for name in variables(container):
            if name not in known and not LIBRARY_VARIABLES.match(name):
                yield f"{program} has the variable {name}, which no program reads"


def clients_reach_the_api_only(manifests):
    """Of what is reachable from outside the cluster, nothing leads to an admin port."""
    by_name = {manifest["metadata"]["name"]: manifest for manifest in manifests if manifest["kind"] == "Service"}
    for name, service in by_name.items():
        ports = {port["targetPort"] for port in service["spec"]["ports"]}
        if service["spec"]["type"] != "ClusterIP" and ports != {"http"}:
            yield f"the Service {name} publishes {sorted(ports)}"
    for manifest in manifests:
        if manifest["kind"] == "Ingress":
            for rule in manifest["spec"]["rules"]:
                for path in rule["http"]["paths"]:
                    backend = path["backend"]["service"]
                    if backend["port"] != {"name": "http"} or backend["name"] not in by_name:
                        yield f"the Ingress leads to {backend}"


def selectors_match(manifests):
    """Every Service, budget and policy selects the pods of exactly one Deployment."""
    labels = [m["spec"]["template"]["metadata"]["labels"] for m in manifests if m["kind"] == "Deployment"]
    for manifest in manifests:
        kind, spec = manifest["kind"], manifest.get("spec", {})
        if kind == "Service":
            selector = spec["selector"]
        elif kind in ("PodDisruptionBudget", "Deployment"):
            selector = spec["selector"]["matchLabels"]
        elif kind == "NetworkPolicy":
            selector = spec["podSelector"]["matchLabels"]
        else:
            continue
        if sum(is_selected(selector, one) for one in labels) != 1:
            yield f"the {kind} {manifest['metadata']['name']} does not select one Deployment"


def prometheus_finds_every_program(manifests):
    """The ServiceMonitor selects a Service with an admin port of each program, by whose label `job` is named."""
    for monitor in manifests:
        if monitor["kind"] != "ServiceMonitor":
            continue
        spec = monitor["spec"]
        found = [
            service["metadata"]["labels"][spec["jobLabel"]]
            for service in manifests
            if service["kind"] == "Service"
            and is_selected(spec["selector"]["matchLabels"], service["metadata"]["labels"])
            and any(port["name"] == spec["endpoints"][0]["port"] for port in service["spec"]["ports"])
        ]
        if sorted(found) != sorted(ADMIN_PORTS):
            yield f"Prometheus finds {sorted(found)} instead of {sorted(ADMIN_PORTS)}"


def alerts_are_those_of_prometheus(manifests):
    """The rules are those of deploy/prometheus/alerts.yml, which have tests of their own."""
    expected = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8"))
    for manifest in manifests:
        if manifest["kind"] != "PrometheusRule":
            continue
        spec = copy.deepcopy(manifest["spec"])
        for group in spec["groups"]:
            for rule in group["rules"]:
                rule["annotations"].pop("runbook_url", None)
        if spec != expected:
            yield "the rules differ from deploy/prometheus/alerts.yml"


def version_is_that_of_the_programs(chart):
    program = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(encoding="utf-8"), re.M)[1]
    of_chart = yaml.safe_load((chart / "Chart.yaml").read_text(encoding="utf-8"))
    for key in ("version", "appVersion"):
        if of_chart[key] != program:
            yield f"{key} of Chart.yaml is {of_chart[key]}, and the programs have {program}"


CHECKS = (
    pods_are_restricted,
    probes_use_the_admin_port,
    pods_have_time_to_stop,
    variables_exist,
    clients_reach_the_api_only,
    selectors_match,
    prometheus_finds_every_program,
    alerts_are_those_of_prometheus,
)


def problems(chart, values=None, options=(), versions=None):
    """Yields the problems of a chart with the values of a file; None: with its defaults."""
    arguments = [*(["--values", str(values)] if values else []), *options]
    name = values.name if values else "default values"
    passed, output, errors = run("helm", "lint", "--strict", str(chart), *arguments)
    if not passed:
        yield f"{name}: helm lint: {output}{errors}"
        return
    rendered = ""
    for version in versions or VERSIONS:
        passed, rendered, errors = run(
            "helm", "template", "shop", str(chart), "--namespace", "orders", "--kube-version", version, *arguments
        )
        if not passed:
            yield f"{name}: helm template: {errors}"
            return
        template = f"{SCHEMAS}/{version}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json"
        command = ("kubeconform", "-strict", "-summary", "-schema-location", template, "-kubernetes-version", version)
        passed, output, errors = run(*command, "-", text=rendered)
        if not passed:
            yield f"{name}: kubeconform for Kubernetes {version}: {output}{errors}"
            return
    for check in CHECKS:
        for problem in check(documents(rendered)):
            yield f"{name}: {problem}"


def main():
    chart = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else CHART
    found = [*version_is_that_of_the_programs(chart)]
    found += [problem for values in (None, *EXAMPLES) for problem in problems(chart, values)]
    for problem in found:
        print(problem, file=sys.stderr)
    if not found:
        print(f"the chart is valid with {len(EXAMPLES) + 1} sets of values, for Kubernetes {' and '.join(VERSIONS)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
