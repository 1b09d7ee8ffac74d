"""Runs the programs through a proxy that permits only what their policies in deploy/iam permit.

Everything must work, and every permission must be needed: one that no request of the run uses fails
the test, as does a request that no permission allows.
"""

import contextlib
import json
import os
import tempfile
import time
import unittest

import iam
from policy_proxy import PolicyProxy
from processes import Process, aws, environment, free_port, program, request, run, wait_for

DYNAMODB = "DynamoDB_20120810."
# Policies of each program; its access key id is its name here.
PROGRAMS = {
    "provision": ["provision"],
    "order-api": ["order-api"],
    "outbox-relay": ["outbox-relay"],
    "inventory-worker": ["inventory-worker"],
    "operator-read": ["operator-read"],
    "operator-act": ["operator-read", "operator-act"],
}
LEASE = "1s"
ROUTES = "order.*=order-events"
A_DAY_AGO = "2026-01-01T00:00:00.000Z"


def item(aggregate, sequence, payload="{}", event_type="order.test"):
    """Returns an event as another program would write it."""
    return {
        "aggregate_id": {"S": aggregate},
        "sequence": {"N": str(sequence)},
        "event_id": {"S": f"{aggregate}:{sequence}"},
        "aggregate_type": {"S": "order"},
        "event_type": {"S": event_type},
        "payload": {"S": payload},
        "occurred_at": {"S": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())},
        "status": {"S": "PENDING"},
        "state_bucket": {"S": "PENDING#0"},
    }


class System:
    """The embedded cloud, the proxy, and the three services behind it."""

    def __init__(self, stack):
        self.stack = stack
        self.folder = stack.enter_context(tempfile.TemporaryDirectory())
        self.log = os.path.join(self.folder, "log")
        dynamodb, sqs = free_port(), free_port()
        listen = ["--dynamodb-listen", f"127.0.0.1:{dynamodb}", "--sqs-listen", f"127.0.0.1:{sqs}"]
        self.start(["cloud", *listen], environment())
        # Past the proxy: what a person does, and what other programs write.
        self.cloud = f"http://127.0.0.1:{dynamodb}"
        self.cloud_sqs = f"http://127.0.0.1:{sqs}"
        wait_for("the cloud", lambda: self.dynamodb("ListTables", {})[0] == 200)
        policies = {name: sum(map(iam.load, files), []) for name, files in PROGRAMS.items()}
        self.proxy = PolicyProxy(("127.0.0.1", dynamodb), ("127.0.0.1", sqs), policies)
        stack.callback(self.proxy.stop)
        self.ports = {}

    def start(self, arguments, env):
        process = Process(arguments, env, self.log)
        self.stack.callback(process.stop)
        return process

    def dynamodb(self, operation, body):
        return aws(self.cloud, DYNAMODB + operation, body)

    def env(self, name, **variables):
        return environment(self.proxy.url, AWS_ACCESS_KEY_ID=name, **variables)

    def service(self, name, variable, wait=True, **variables):
        """Starts a service, and waits until it is ready unless `wait` is False."""
        port = free_port()
        variables[variable] = f"127.0.0.1:{port}"
        if name == "order-api":
            variables["ORDER_API_ADMIN_LISTEN"] = f"127.0.0.1:{free_port()}"
        process = self.start([name], self.env(name, **variables))
        self.ports[name] = f"http://127.0.0.1:{port}"
        if wait:
            url = f"{self.ports[name]}/readyz"
            wait_for(f"{name} to be ready", lambda: request(url)[0] == 200)
        return process

    def relay(self, wait=True, **variables):
        variables = {"RELAY_LEASE_DURATION": LEASE, "RELAY_SWEEP_INTERVAL": "1s", **variables}
        variables.setdefault("RELAY_ROUTES", ROUTES)
        return self.service("outbox-relay", "RELAY_ADMIN_LISTEN", wait, **variables)

    def order(self, sku, quantity, key=None):
        """Places an order, and returns its id."""
        line = {"sku": sku, "quantity": quantity, "unit_price_minor": 1}
        body = {"customer_id": "c-1", "currency": "EUR", "items": [line]}
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Idempotency-Key"] = key
        url = self.ports["order-api"] + "/orders"
        status, answer = request(url, body, headers)
        if status != 201:
            raise AssertionError(f"POST /orders: {status} {answer}")
        return answer["order_id"]

    def wait_for_order(self, order, status):
        url = f"{self.ports['order-api']}/orders/{order}"
        wait_for(f"order {order} to be {status}", lambda: request(url)[1]["status"] == status)

    def event(self, aggregate, sequence):
        key = {"aggregate_id": {"S": aggregate}, "sequence": {"N": str(sequence)}}
        body = {"TableName": "outbox", "Key": key, "ConsistentRead": True}
        return self.dynamodb("GetItem", body)[1]["Item"]

    def wait_for_event(self, aggregate, sequence, status):
        what = f"event {aggregate}:{sequence} to be {status}"
        wait_for(what, lambda: self.event(aggregate, sequence)["status"]["S"] == status)

    def put_event(self, event):
        self.dynamodb("PutItem", {"TableName": "outbox", "Item": event})

    def operate(self, name, *arguments, allowed=(0,)):
        settings = {"RELAY_AGGREGATE_TABLES": "order=orders", "RELAY_LEASE_DURATION": LEASE}
        env = self.env(name, RELAY_ROUTES=ROUTES, **settings)
        return run(["outbox-relay", *arguments], env, allowed)

    def provision(self):
        # As somebody created it by hand: without a stream.
        self.dynamodb("CreateTable", outbox_without_stream())
        run(["provision", "--stock"], self.env("provision"))

    def leave_old_lease(self):
        """Writes the lease of a shard that the stream has deleted, for the relay to remove."""
        table = self.dynamodb("DescribeTable", {"TableName": "outbox"})[1]["Table"]
        lease = {
            "stream": {"S": f"default|{table['LatestStreamArn']}"},
            "lease": {"S": "shardId-00000000000000000000-00000000"},
            "epoch": {"N": "1"},
            "beat": {"N": "1"},
            "state": {"S": "ENDED"},
            "unlisted_at": {"S": A_DAY_AGO},
        }
        self.dynamodb("PutItem", {"TableName": "relay_leases", "Item": lease})

    def queue_url(self, name):
        return aws(self.cloud_sqs, "AmazonSQS.GetQueueUrl", {"QueueName": name})[1]["QueueUrl"]

    def send(self, queue, body):
        message = {"QueueUrl": self.queue_url(queue), "MessageBody": body}
        aws(self.cloud_sqs, "AmazonSQS.SendMessage", message)


def outbox_without_stream():
    def key(*names):
        kinds = zip(names, ("HASH", "RANGE"))
        return [{"AttributeName": name, "KeyType": kind} for name, kind in kinds]

    texts = ("aggregate_id", "state_bucket", "occurred_at")
    include = ["event_id", "event_type", "failed_at", "retried_at", "replayed_at"]
    return {
        "TableName": "outbox",
        "BillingMode": "PAY_PER_REQUEST",
        "KeySchema": key("aggregate_id", "sequence"),
        "AttributeDefinitions": [{"AttributeName": "sequence", "AttributeType": "N"}]
        + [{"AttributeName": name, "AttributeType": "S"} for name in texts],
        "GlobalSecondaryIndexes": [
            {
                "IndexName": "by_state",
                "KeySchema": key("state_bucket", "occurred_at"),
                "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": include},
            }
        ],
    }


def play(system):
    """Does with the system what it is for, and what goes wrong with it."""
    system.provision()
    system.leave_old_lease()
    system.service("order-api", "ORDER_API_LISTEN")
    system.service("inventory-worker", "WORKER_ADMIN_LISTEN", WORKER_VISIBILITY_TIMEOUT="1s")
    relay = system.relay(RELAY_INSTANCE_ID="relay-1")

    first = system.order("WIDGET-1", 2, key="key-1")
    assert system.order("WIDGET-1", 2, key="key-1") == first, "the key made two orders"
    system.wait_for_order(first, "PROCESSED")
    # Not enough stock: the worker rejects the order outside a transaction.
    system.wait_for_order(system.order("UNKNOWN", 1), "REJECTED")
    # Processing that takes longer than the visibility timeout: the worker extends it.
    system.proxy.delays["inventory-worker"] = 1
    slow = system.order("WIDGET-1", 1)
    system.wait_for_order(slow, "PROCESSED")
    del system.proxy.delays["inventory-worker"]
    # Quarantined by the relay.
    system.put_event(item("bad", 1, payload="not JSON"))
    system.wait_for_event("bad", 1, "FAILED")

    # The next owner reads the events after its checkpoint in the table, and those before them.
    relay.kill()
    # Leases without a heartbeat are compared with the shards of the stream.
    system.operate("operator-read", "status", allowed=(1,))
    system.put_event(item(first, 2))
    system.put_event(item("gap", 3))
    relay = system.relay(RELAY_INSTANCE_ID="relay-1")
    system.wait_for_event(first, 2, "PUBLISHED")
    system.wait_for_event("gap", 3, "PUBLISHED")
    # A route may name a queue by its URL, which is checked with another request.
    relay.stop()
    url = system.queue_url("order-events")
    system.relay(RELAY_ROUTES=f"order.*={url}")

    system.operate("operator-read", "status", allowed=(0, 1))
    system.operate("operator-read", "list")
    system.operate("operator-read", "list", "--state", "failed")
    system.operate("operator-read", "list", "--state", "published", "--scan")
    assert "PROCESSED" in system.operate("operator-read", "show", first)
    system.operate("operator-read", "show", "bad:1")
    system.operate("operator-read", "shards")
    system.operate("operator-act", "retry", "bad:1", allowed=(0, 1))
    system.wait_for_event("bad", 1, "FAILED")
    system.operate("operator-act", "discard", "bad:1", "--reason", "test")
    system.operate("operator-act", "replay", "--aggregate", first, "--yes")
    system.wait_for_event(first, 1, "PUBLISHED")
    dead_letters(system)


def dead_letters(system):
    # Two messages that no worker can read.
    system.send("order-events-dlq", "one")
    system.send("order-events-dlq", "two")

    def listed():
        out = system.operate("operator-read", "dlq", "list", "--output", "json")
        return [letter["message_id"] for letter in json.loads(out)["messages"]]

    ids = wait_for("two dead letters", lambda: len(listed()) >= 2 and listed())
    system.operate("operator-act", "dlq", "redrive", ids[0])
    system.operate("operator-act", "dlq", "discard", ids[1])
    # The worker reads the age of the dead letters every 15 s.
    system.send("order-events-dlq", "three")
    worker = ("inventory-worker", "ReceiveMessage")
    dead = iam.queue("order-events-dlq")
    wait_for(
        "the worker to read the age of a dead letter",
        lambda: any(
            request[:2] == worker and any(check.resource == dead for check in request[2])
            for request in list(system.proxy.requests)
        ),
    )


def denied(requests, name, own):
    """Returns the checks of the requests of `name` that none of `own` allows."""
    checks = {check for who, _, needed in requests if who == name for check in needed}
    return [check for check in checks if not any(one.allows(check) for one in own)]


def unneeded(requests, name, own, others=()):
    """Returns the permissions of `own` without which every request of `name` is still allowed."""
    checks = {check for who, _, needed in requests if who == name for check in needed}
    found = []
    for permission in own:
        rest = [other for other in [*own, *others] if other is not permission]
        used = [check for check in checks if permission.allows(check)]
        if all(any(other.allows(check) for other in rest) for check in used):
            found.append(permission)
    return found


class Policies(unittest.TestCase):
    """The recorded requests of one run, and the policies."""

    @classmethod
    def setUpClass(cls):
        with contextlib.ExitStack() as stack:
            system = System(stack)
            try:
                play(system)
                cls.unauthorized = cls.forbidden(system)
            except AssertionError:
                with open(system.log, encoding="utf-8", errors="replace") as log:
                    print("".join(log.readlines()[-60:]))
                print("denied:", *map(str, system.proxy.denied), sep="\n  ")
                raise
            cls.requests = set(system.proxy.requests)
            cls.denied = set(system.proxy.denied)
            cls.errors = list(system.proxy.errors)

    @staticmethod
    def forbidden(system):
        """Sends what the policies are there to prevent; returns what was not denied."""
        url = system.proxy.url
        event = {"TableName": "outbox", "Item": item("alone", 1)}
        stock = {
            "TableName": "inventory",
            "Key": {"sku": {"S": "WIDGET-1"}},
            "UpdateExpression": "SET available = :n",
            "ExpressionAttributeValues": {":n": {"N": "1"}},
        }
        key = {"TableName": "orders", "Key": {"order_id": {"S": "x"}}}
        attempts = [
            ("order-api", "PutItem", event),
            ("inventory-worker", "UpdateItem", stock),
            ("outbox-relay", "GetItem", key),
            ("operator-read", "UpdateItem", {**stock, "TableName": "outbox"}),
        ]
        before = set(system.proxy.denied)
        allowed = []
        for name, operation, body in attempts:
            status, answer = aws(url, DYNAMODB + operation, body, name)
            if status != 400 or "not authorized" not in answer["message"]:
                allowed.append((name, operation, answer))
        system.proxy.denied = before
        return allowed

    def test_every_request_is_permitted(self):
        self.assertEqual([], self.errors)
        self.assertEqual([], [f"{name} lacks {check}" for name, check in self.denied])

    def test_every_permission_is_needed(self):
        extra = []
        for name, files in PROGRAMS.items():
            own = iam.load(files[-1])
            others = sum(map(iam.load, files[:-1]), [])
            found = unneeded(self.requests, name, own, others)
            extra += [f"{name}: {permission}" for permission in found]
        self.assertFalse(extra, "not needed by any request:\n" + "\n".join(extra))

    def test_a_permission_too_many_or_too_few_is_found(self):
        own = iam.load("outbox-relay")
        extra = iam.Permission("Extra", "dynamodb:DeleteItem", iam.table("outbox"), "{}")
        self.assertIn(extra, unneeded(self.requests, "outbox-relay", [*own, extra]))
        for missing in own:
            rest = [one for one in own if one is not missing]
            self.assertTrue(denied(self.requests, "outbox-relay", rest), missing)

    def test_what_the_policies_prevent_is_denied(self):
        self.assertEqual([], self.unauthorized)


if __name__ == "__main__":
    program()
    unittest.main(verbosity=2)
