"""Compares the alarms of deploy/aws with the alerts of Prometheus and with the programs' logs.

moto's CloudFormation has no alarms and no metric filters; cfn-lint checks their properties.
"""

import re
import unittest

from moto_server import parse, read
from processes import ROOT
from test_services_template import sources

MESSAGE = re.compile(r'\$\.message = "([^"]+)\*"')
TEMPLATES_WITH_ALARMS = ["alarms.yaml", "log-alarms.yaml"]


def alerts():
    text = (ROOT / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8")
    severities = {}
    for part in text.split("- alert: ")[1:]:
        severities[part.split("\n", 1)[0]] = re.search(r"severity: (\w+)", part)[1]
    return severities


def alarms(texts):
    """Returns the names of the alarms in the texts of templates, with their severities."""
    found = {}
    for text in texts:
        for name, resource in parse(text)["Resources"].items():
            if resource["Type"] == "AWS::CloudWatch::Alarm":
                topic = str(resource["Properties"]["AlarmActions"])
                found[name] = "page" if "PageTopicArn" in topic else "ticket"
    return found


def missing_log_lines(text, source):
    """Returns the log texts in a template that no source file has."""
    found = []
    for resource in parse(text)["Resources"].values():
        if resource["Type"] == "AWS::Logs::MetricFilter":
            found += MESSAGE.findall(resource["Properties"]["FilterPattern"])
    return [one for one in found if f'"{one}' not in source]


class AlarmTemplates(unittest.TestCase):
    def test_each_alert_is_an_alarm_or_needs_prometheus(self):
        texts = [read(name) for name in TEMPLATES_WITH_ALARMS]
        self.assertEqual([], self.uncovered(texts))
        without = [texts[0], texts[1].replace("  OutboxStreamGap:\n", "  Other:\n")]
        self.assertEqual(["OutboxStreamGap"], self.uncovered(without))

    @staticmethod
    def uncovered(texts):
        by_prometheus = set(parse(texts[0])["Metadata"]["NeedsPrometheus"])
        covered = by_prometheus | set(alarms(texts))
        return sorted(set(alerts()) - covered)

    def test_each_alarm_names_its_section(self):
        for text in map(read, TEMPLATES_WITH_ALARMS):
            for name, resource in parse(text)["Resources"].items():
                if resource["Type"] == "AWS::CloudWatch::Alarm":
                    section = f"docs/operations.md#{name.lower()}"
                    self.assertIn(section, resource["Properties"]["AlarmDescription"])
                    self.assertIn(name, alerts())

    def test_alarms_are_as_severe_as_the_alerts(self):
        severities = alerts()
        for name, severity in alarms(read(one) for one in TEMPLATES_WITH_ALARMS).items():
            self.assertEqual(severities[name], severity, name)

    def test_log_lines_are_those_of_the_programs(self):
        text, source = read("log-alarms.yaml"), sources()
        self.assertEqual([], missing_log_lines(text, source))
        planted = text.replace("stream gap*", "stream hole*")
        self.assertEqual(["stream hole"], missing_log_lines(planted, source))


if __name__ == "__main__":
    unittest.main(verbosity=2)
