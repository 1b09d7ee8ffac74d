"""Evaluates the policies of deploy/iam, and derives from a request what IAM would check.

Covers what the programs and the policies use, and rejects everything else: another condition
operator, an operation without an entry in `required` or a statement that is not `Allow` is an error,
not a permission.
"""

import dataclasses
import fnmatch
import json
import pathlib
import re

POLICIES = pathlib.Path(__file__).resolve().parent.parent / "iam"
# Region and account of the policies, to be replaced by one's own.
REGION = "us-east-1"
ACCOUNT = "111122223333"

STATEMENT_KEYS = {"Sid", "Effect", "Action", "Resource", "Condition"}
TRANSACTION = {"dynamodb:EnclosingOperation": ["TransactWriteItems"]}
TRANSACTION_ACTIONS = {
    "Put": "dynamodb:PutItem",
    "Update": "dynamodb:UpdateItem",
    "Delete": "dynamodb:DeleteItem",
    "ConditionCheck": "dynamodb:ConditionCheckItem",
}
TABLE_OPERATIONS = {
    "CreateTable",
    "DeleteItem",
    "DescribeTable",
    "DescribeTimeToLive",
    "GetItem",
    "PutItem",
    "Scan",
    "UpdateItem",
    "UpdateTable",
    "UpdateTimeToLive",
}
STREAM_OPERATIONS = {"DescribeStream", "GetShardIterator", "GetRecords"}
# SQS checks the action of a single message for a batch.
QUEUE_OPERATIONS = {
    "ChangeMessageVisibility": "ChangeMessageVisibility",
    "ChangeMessageVisibilityBatch": "ChangeMessageVisibility",
    "CreateQueue": "CreateQueue",
    "DeleteMessage": "DeleteMessage",
    "DeleteMessageBatch": "DeleteMessage",
    "GetQueueAttributes": "GetQueueAttributes",
    "GetQueueUrl": "GetQueueUrl",
    "ReceiveMessage": "ReceiveMessage",
    "SendMessage": "SendMessage",
    "SendMessageBatch": "SendMessage",
    "SetQueueAttributes": "SetQueueAttributes",
}


class UnknownToIam(Exception):
    """A policy or a request has something that this module does not cover."""


@dataclasses.dataclass(frozen=True)
class Check:
    """One permission that a request needs."""

    action: str
    resource: str
    # Condition keys and their values.
    context: tuple = ()

    def __str__(self):
        inside = f" in {self.context[0][1][0]}" if self.context else ""
        return f"{self.action} on {self.resource}{inside}"


@dataclasses.dataclass(frozen=True)
class Permission:
    """One action on one resource of a statement: the smallest part that can be removed."""

    sid: str
    action: str
    resource: str
    condition: str

    def allows(self, check):
        return (
            self.action == check.action
            and fnmatch.fnmatchcase(check.resource, self.resource)
            and holds(json.loads(self.condition), dict(check.context))
        )

    def __str__(self):
        return f"{self.sid}: {self.action} on {self.resource}"


def holds(condition, context):
    """Returns whether the condition block of a statement holds."""
    for operator, keys in condition.items():
        if operator not in ("StringEquals", "ForAnyValue:StringEquals"):
            raise UnknownToIam(f"condition operator {operator}")
        for key, allowed in keys.items():
            allowed = allowed if isinstance(allowed, list) else [allowed]
            if not set(context.get(key, ())) & set(allowed):
                return False
    return True


def load(name):
    """Returns the permissions of the policy `name`."""
    return permissions(json.loads((POLICIES / f"{name}.json").read_text(encoding="utf-8")))


def permissions(policy):
    """Returns the permissions of a policy document."""
    found = []
    for statement in policy["Statement"]:
        unknown = set(statement) - STATEMENT_KEYS
        if unknown or statement["Effect"] != "Allow":
            raise UnknownToIam(f"statement {statement.get('Sid')}: {unknown or 'not Allow'}")
        condition = json.dumps(statement.get("Condition", {}), sort_keys=True)
        found += [
            Permission(statement["Sid"], action, resource, condition)
            for action in statement["Action"]
            for resource in statement["Resource"]
        ]
    return found


def table(name):
    return f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{name}"


def queue(name):
    return f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"


def stream(arn):
    """Returns the ARN of a stream of an emulator in the account of the policies."""
    return table(arn.split(":table/", 1)[1])


def required(service, operation, body, stream_of_iterator):
    """Returns the permissions that a request needs.

    `stream_of_iterator` maps shard iterators to the ARNs of their streams.
    """
    if service == "sqs":
        if operation not in QUEUE_OPERATIONS:
            raise UnknownToIam(f"sqs:{operation}")
        name = body.get("QueueName") or body["QueueUrl"].rsplit("/", 1)[-1]
        return [Check(f"sqs:{QUEUE_OPERATIONS[operation]}", queue(name))]
    if operation in STREAM_OPERATIONS:
        arn = body.get("StreamArn") or stream_of_iterator[body["ShardIterator"]]
        return [Check(f"dynamodb:{operation}", stream(arn))]
    if operation == "TransactWriteItems":
        context = tuple((key, tuple(values)) for key, values in TRANSACTION.items())
        return [
            Check(TRANSACTION_ACTIONS[kind], table(action["TableName"]), context)
            for item in body["TransactItems"]
            for kind, action in item.items()
        ]
    if operation == "BatchExecuteStatement":
        return [partiql(statement["Statement"]) for statement in body["Statements"]]
    if operation == "BatchGetItem":
        return [Check("dynamodb:BatchGetItem", table(name)) for name in body["RequestItems"]]
    if operation == "Query":
        index = body.get("IndexName")
        name = body["TableName"] + (f"/index/{index}" if index else "")
        return [Check("dynamodb:Query", table(name))]
    if operation in TABLE_OPERATIONS:
        return [Check(f"dynamodb:{operation}", table(body["TableName"]))]
    raise UnknownToIam(f"dynamodb:{operation}")


def partiql(statement):
    found = re.match(r'\s*UPDATE\s+"([^"]+)"', statement)
    if not found:
        raise UnknownToIam(f"PartiQL statement {statement}")
    return Check("dynamodb:PartiQLUpdate", table(found[1]))
