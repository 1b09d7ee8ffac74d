"""Compares deploy/iam/README.md with the policies, and with the calls in the source files."""

import re
import unittest

import iam
from processes import ROOT

FOLDERS = ("order-api", "outbox-relay", "outbox-store", "outbox-admin", "inventory-worker", "shared")
# Calls of the three clients, by the names of the SDK's methods.
CALLS = {
    re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower(): name
    for name in iam.TABLE_OPERATIONS
    | iam.STREAM_OPERATIONS
    | set(iam.QUEUE_OPERATIONS)
    | {"BatchExecuteStatement", "BatchGetItem", "Query", "TransactWriteItems"}
}
# What precedes the resource itself.
ARN = re.compile(r"^arn:aws:\w+:[^:]*:\d+:")
METHOD = re.compile(r"\.(%s)\(\)" % "|".join(sorted(CALLS, key=len, reverse=True)))
# A request of an SDK ends with `.send()`; this finds those that CALLS does not know.
CLIENTS = re.compile(r"\b(?:client|clients\.\w+|dynamodb|streams|sqs|writer|single_attempt)\s*\.(\w+)\(\)")
OTHER_METHODS = {"clone", "config", "as_ref", "to_owned"}


def source_calls():
    """Returns the calls in the source files, and methods of clients that are not known."""
    texts = [
        file.read_text(encoding="utf-8")
        for folder in FOLDERS
        for file in (ROOT / folder / "src").rglob("*.rs")
    ]
    known = {call for text in texts for call in calls_in(text)[0]}
    return known, {call for text in texts for call in calls_in(text)[1]}


def calls_in(text):
    known = {CALLS[name] for name in METHOD.findall(text)}
    if "aws_sdk" not in text:
        return known, set()
    return known, set(CLIENTS.findall(text)) - set(CALLS) - OTHER_METHODS


def tables(text):
    """Returns, for each program, the rows of its table: (calls, actions, resources, condition)."""
    found = {}
    for section in text.split("\n### ")[1:]:
        name, rest = section.split("\n", 1)
        rows = [line.split("|")[1:-1] for line in rest.split("\n## ")[0].split("\n") if "|" in line]
        found[name] = [
            (
                re.findall(r"`(\w+)`", calls),
                re.findall(r"`([\w:]+)`", actions),
                re.findall(r"`([^`]+)`", resources),
                "in a transaction" in resources,
            )
            for calls, actions, resources, _ in rows[2:]
        ]
    return found


def documented(rows):
    """Returns (action, resource, whether in a transaction) of a table."""
    return {
        (action, resource, transaction)
        for _, actions, resources, transaction in rows
        for action in actions
        for resource in resources
    }


def permitted(policy):
    return {
        (one.action, ARN.sub("", one.resource), "Transact" in one.condition)
        for one in iam.load(policy)
    }


class Readme(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.text = (iam.POLICIES / "README.md").read_text(encoding="utf-8")

    def test_tables_are_those_of_the_policies(self):
        for name, rows in tables(self.text).items():
            self.assertEqual(permitted(name), documented(rows), name)

    def test_every_call_of_the_programs_is_documented(self):
        known, unknown = source_calls()
        self.assertEqual(set(), unknown, "calls that iam.py does not know")
        rows = [row for one in tables(self.text).values() for row in one]
        self.assertEqual(set(), known - {call for row in rows for call in row[0]})

    def test_differences_are_found(self):
        planted = self.text.replace("`dynamodb:GetItem` | `table/orders`", "`dynamodb:GetItem` | `orders`")
        self.assertNotEqual(permitted("order-api"), documented(tables(planted)["order-api"]))
        rows = tables(self.text.replace("`BatchGetItem`", "`GetItem`"))
        named = {call for one in rows.values() for row in one for call in row[0]}
        self.assertIn("BatchGetItem", source_calls()[0] - named)
        unknown = calls_in("use aws_sdk_sqs; let sent = self.sqs.purge_queue().send();")[1]
        self.assertEqual({"purge_queue"}, unknown)


if __name__ == "__main__":
    unittest.main(verbosity=2)
