"""Compares the tables and queues of deploy/aws/data.yaml with those that `provision` creates.

Both run against a moto server, each in a region of its own.
"""

import json
import unittest

from moto_server import client, deploy, moto, parse, read
from processes import environment, run

TABLES = ["orders", "outbox", "inventory", "idempotency_keys", "relay_leases"]
PROVISIONED = "eu-central-1"
PROVISIONED_FIFO = "eu-central-2"
QUEUE_ATTRIBUTES = [
    "FifoQueue",
    "MaximumMessageSize",
    "MessageRetentionPeriod",
    "RedrivePolicy",
    "VisibilityTimeout",
    "DelaySeconds",
    "ReceiveMessageWaitTimeSeconds",
]


def described_table(dynamodb, name):
    """Returns what a table is like, in a form that can be compared."""
    table = dynamodb.describe_table(TableName=name)["Table"]
    definitions = {one["AttributeName"]: one["AttributeType"] for one in table["AttributeDefinitions"]}

    def keys(schema):
        return [(key["AttributeName"], key["KeyType"]) for key in schema]

    indexes = {
        index["IndexName"]: {
            "keys": keys(index["KeySchema"]),
            "projection": index["Projection"]["ProjectionType"],
            "attributes": sorted(index["Projection"].get("NonKeyAttributes", [])),
        }
        for index in table.get("GlobalSecondaryIndexes", [])
    }
    return {
        "definitions": definitions,
        "keys": keys(table["KeySchema"]),
        "billing": table["BillingModeSummary"]["BillingMode"],
        "indexes": indexes,
        "local indexes": table.get("LocalSecondaryIndexes", []),
        "stream": table.get("StreamSpecification"),
    }


def time_to_live(dynamodb, name):
    """Returns the attribute of a table's time to live, or None."""
    ttl = dynamodb.describe_time_to_live(TableName=name)["TimeToLiveDescription"]
    return ttl.get("AttributeName") if ttl["TimeToLiveStatus"] == "ENABLED" else None


def described_queue(sqs, name):
    """Returns the attributes of a queue; the region is not one of them."""
    url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    attributes = {key: found.get(key) for key in QUEUE_ATTRIBUTES}
    if attributes["RedrivePolicy"]:
        policy = json.loads(attributes["RedrivePolicy"])
        target = policy["deadLetterTargetArn"].rsplit(":", 1)[-1]
        attributes["RedrivePolicy"] = (target, int(policy["maxReceiveCount"]))
    return attributes


def compare(what, template, provision):
    return [
        f"{what}: {key}: the template has {template[key]}, `provision` {provision[key]}"
        for key in template
        if template[key] != provision[key]
    ]


def declared_time_to_live(template, table):
    """Returns the attribute that a template declares: moto's CloudFormation ignores it."""
    defaults = {name: one["Default"] for name, one in template["Parameters"].items()}
    for resource in template["Resources"].values():
        properties = resource["Properties"]
        if defaults.get(properties.get("TableName", {}).get("Ref")) == table:
            ttl = properties.get("TimeToLiveSpecification", {})
            return ttl.get("AttributeName") if ttl.get("Enabled") is True else None
    return None


class DataTemplate(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.url = cls.enterClassContext(moto())
        for region, queue in ((PROVISIONED, "order-events"), (PROVISIONED_FIFO, "order-events.fifo")):
            env = environment(cls.url, AWS_REGION=region, WORKER_QUEUE=queue)
            run(["provision"], env)

    def differences(self, template, deployed, fifo=False):
        """Deploys the text of a template, and returns how it differs from `provision`."""
        regions = deployed, PROVISIONED_FIFO if fifo else PROVISIONED
        deploy(self.url, deployed, "data", template, Fifo=str(fifo).lower())
        found = []
        dynamodb = [client(self.url, "dynamodb", region) for region in regions]
        for table in TABLES:
            found += compare(f"table {table}", *(described_table(one, table) for one in dynamodb))
            ttl = declared_time_to_live(parse(template), table), time_to_live(dynamodb[1], table)
            found += compare(f"table {table}", *({"time to live": one} for one in ttl))
        sqs = [client(self.url, "sqs", region) for region in regions]
        suffix = ".fifo" if fifo else ""
        for queue in (f"order-events{suffix}", f"order-events-dlq{suffix}"):
            found += compare(f"queue {queue}", *(described_queue(one, queue) for one in sqs))
        tables = [{"tables": sorted(one.list_tables()["TableNames"])} for one in dynamodb]
        queues = [{"queues": len(one.list_queues()["QueueUrls"])} for one in sqs]
        return found + compare("all", *tables) + compare("all", *queues)

    def test_template_and_provision_create_the_same(self):
        self.assertEqual([], self.differences(read("data.yaml"), "us-east-1"))

    def test_template_and_provision_create_the_same_fifo_queues(self):
        self.assertEqual([], self.differences(read("data.yaml"), "us-east-2", fifo=True))

    def test_tables_and_queues_are_protected(self):
        key = "arn:aws:kms:ap-northeast-1:123456789012:key/11112222-3333-4444-5555-666677778888"
        deploy(self.url, "ap-northeast-1", "data", read("data.yaml"), KmsKeyArn=key)
        sqs = client(self.url, "sqs", "ap-northeast-1")
        for queue in sqs.list_queues()["QueueUrls"]:
            found = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["KmsMasterKeyId"])
            self.assertEqual(key, found["Attributes"]["KmsMasterKeyId"])
        dynamodb = client(self.url, "dynamodb", "ap-northeast-1")
        for table in TABLES:
            found = dynamodb.describe_table(TableName=table)["Table"]
            self.assertEqual("true", str(found["DeletionProtectionEnabled"]).lower(), table)
        # moto's CloudFormation ignores point-in-time recovery, and what deleting the stack keeps.
        for name, resource in parse(read("data.yaml"))["Resources"].items():
            self.assertEqual("Retain", resource["DeletionPolicy"], name)
            self.assertEqual("Retain", resource["UpdateReplacePolicy"], name)
            if resource["Type"] == "AWS::DynamoDB::Table":
                recovery = "PointInTimeRecoverySpecification" in resource["Properties"]
                self.assertEqual(name != "RelayLeases", recovery, name)

    def test_each_difference_is_found(self):
        planted = [
            ("us-west-1", "NEW_IMAGE", "KEYS_ONLY", "table outbox: stream"),
            ("us-west-2", "replayed_at]", "payload]", "table outbox: indexes"),
            ("eu-west-1", "Type: INCLUDE", "Type: ALL", "table outbox: indexes"),
            ("eu-west-2", "sequence, AttributeType: N", "sequence, AttributeType: S", "definitions"),
            ("eu-west-3", "occurred_at, KeyType", "sequence, KeyType", "table outbox: indexes"),
            ("eu-north-1", "Name: expires_at", "Name: expires", "table outbox: time to live"),
            ("sa-east-1", "604800", "345600", "queue order-events: MessageRetention"),
            ("ca-central-1", "1209600", "345600", "queue order-events-dlq: MessageRetention"),
            ("ap-south-1", "1048576", "262144", "queue order-events: MaximumMessageSize"),
            ("ap-east-1", "ReceiveCount: 5", "ReceiveCount: 3", "queue order-events: Redrive"),
            ("ap-southeast-1", "PAY_PER_REQUEST", "PROVISIONED", "table orders: billing"),
        ]
        for region, right, wrong, expected in planted:
            with self.subTest(wrong):
                template = read("data.yaml")
                self.assertIn(right, template)
                found = self.differences(template.replace(right, wrong, 1), region)
                self.assertIn(expected, "\n".join(found))


if __name__ == "__main__":
    unittest.main(verbosity=2)
