#!/usr/bin/env python3
"""Shows that the checks of chart.py find errors: each test makes one in a copy of the chart.

Run it by deploy/helm/check.
"""

import pathlib
import shutil
import tempfile
import unittest

import chart

EKS = chart.ROOT / "deploy/helm/examples/eks.yaml"
RESTRICTED = chart.ROOT / "deploy/helm/examples/restricted.yaml"

# What is wrong: file of the chart, text, its replacement, and a part of the report.
ERRORS = {
    "a template that cannot be parsed": ("templates/monitoring.yaml", "{{- if .enabled }}", "{{- if .enabled", "helm lint"),
    "a value that no schema has": ("values.yaml", "\noutboxBuckets:", "\noutboxBucket: 1\noutboxBuckets:", "outboxBucket"),
    "a value of the wrong type": ("values.yaml", "outboxBuckets: 32", "outboxBuckets: many", "outboxBuckets"),
    "a field that Kubernetes does not have": ("templates/_deployment.tpl", "readinessProbe:", "readinesProbe:", "readinesProbe"),
    "a field of the wrong type": ("templates/_deployment.tpl", "revisionHistoryLimit: 5", "revisionHistoryLimit: five", "revisionHistoryLimit"),
    "an API that was removed": ("templates/disruption-budgets.yaml", "policy/v1", "policy/v1beta1", "could not find schema"),
    "a field that KEDA does not have": ("templates/inventory-worker.yaml", "maxReplicaCount:", "maxReplicas:", "maxReplicas"),
    "a field that the Prometheus operator does not have": ("templates/monitoring.yaml", "interval:", "every:", "every"),
    "a writable root file system": ("templates/_deployment.tpl", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "read-only root"),
    "a capability that is kept": ("templates/_deployment.tpl", "drop: [ALL]", "drop: [NET_RAW]", "no capabilities"),
    "too little time to stop": ("templates/_deployment.tpl", ".root.Values.shutdownGraceSeconds 10", ".root.Values.shutdownGraceSeconds 5", "to stop"),
    "a variable that no program reads": ("templates/outbox-relay.yaml", "RELAY_ON_FAILURE:", "RELAY_ON_FAIL:", "RELAY_ON_FAIL,"),
    "a probe of the public port": ("templates/_deployment.tpl", "path: /readyz, port: admin", "path: /readyz, port: http", "readinessProbe"),
    "a port that the program does not listen on": ("templates/_names.tpl", '"outbox-relay" 8081', '"outbox-relay" 8084', "8084"),
    "an Ingress to an admin port": ("templates/order-api.yaml", "                  name: http\n", "                  name: admin\n", "the Ingress leads to"),
    "pods without the labels of the Service": ("templates/_deployment.tpl", '"outbox.selectorLabels" . | nindent 8', '"outbox.commonLabels" .root | nindent 8', "does not select"),
    "a program that Prometheus does not find": ("templates/admin-services.yaml", "- name: admin", "- name: metrics", "Prometheus finds []"),
    "an alert that differs": ("files/alerts.yml", "> 300", "> 301", "differ from deploy/prometheus/alerts.yml"),
}


class PlantedErrors(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        # The link to the alerts is followed.
        self.copy = pathlib.Path(shutil.copytree(chart.CHART, pathlib.Path(folder.name, chart.CHART.name)))

    def report(self, values, *options):
        return "\n".join(chart.problems(self.copy, values, options, versions=chart.VERSIONS[-1:]))

    def test_the_copy_has_none(self):
        self.assertEqual(self.report(EKS), "")

    def test_errors_in_the_chart_are_found(self):
        for name, (file, text, replacement, expected) in ERRORS.items():
            with self.subTest(name):
                path = self.copy / file
                original = path.read_text(encoding="utf-8")
                self.assertIn(text, original)
                path.write_text(original.replace(text, replacement, 1), encoding="utf-8")
                self.assertIn(expected, self.report(EKS) or "no problems")
                path.write_text(original, encoding="utf-8")

    def test_values_that_contradict_each_other_are_refused(self):
        for option, expected in (
            ("orderApi.auth.anonymous=true", "contradicts"),
            ("orderApi.auth.jwt.audience=", "audience is required"),
            ("aws.region=", "aws.region is required"),
            ("inventoryWorker.keda.queueUrl=", "queueUrl is required"),
            ("inventoryWorker.keda.minReplicas=0", "minReplicas"),
            ("env.SHUTDOWN_GRACE=60s", "the chart sets SHUTDOWN_GRACE"),
            ("outboxRelay.env.RELAY_INSTANCE_ID=relay-1", "the chart sets RELAY_INSTANCE_ID"),
            ("inventoryWorker.serviceAccount.create=false", "serviceAccount.name is required"),
            ("outboxRelay.console.existingSecret=", "existingSecret"),
            ("networkPolicy.httpsTo=null", "httpsTo"),
        ):
            with self.subTest(option):
                self.assertIn(expected, self.report(EKS, "--set-string" if "env." in option else "--set", option))

    def test_a_version_that_differs_is_found(self):
        path = self.copy / "Chart.yaml"
        path.write_text(path.read_text(encoding="utf-8").replace('appVersion: "', 'appVersion: "9.'), encoding="utf-8")
        self.assertIn("appVersion", "".join(chart.version_is_that_of_the_programs(self.copy)))

    def test_the_longest_names_are_valid(self):
        name = "a" * 53
        self.assertEqual(self.report(RESTRICTED, "--set", f"namePrefix={name}"), "")


if __name__ == "__main__":
    unittest.main()
