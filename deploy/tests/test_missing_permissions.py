"""Takes permissions away, one at a time, and checks that the programs name what they may not do."""

import contextlib
import unittest

import iam
from processes import request, run, wait_for
from test_policies import System, item, outbox_without_stream

# The dead-letter queue's message size is set if that is permitted: on AWS it is the default.
OPTIONAL = {("sqs:SetQueueAttributes", iam.queue("order-events-dlq"))}
# Needed by the relay in rare cases only: old leases are deleted, and a route may be a URL.
RARE = {"dynamodb:DeleteItem", "sqs:GetQueueAttributes"}


class MissingPermissions(unittest.TestCase):
    @contextlib.contextmanager
    def system_without(self, name, missing):
        """Starts a system in which the program `name` lacks one permission."""
        with self.subTest(str(missing)), contextlib.ExitStack() as stack:
            system = System(stack)
            yield system, [one for one in iam.load(name) if one != missing]

    def wait_until_red(self, system, name, missing):
        """Waits until /readyz of a service is red, with a check that names the action."""
        url = system.ports[name] + "/readyz"

        def is_red():
            status, report = request(url)
            return status == 503 and missing.action in str(report)

        wait_for(f"/readyz to name {missing}", is_red, 60)

    def test_provision_ends_with_the_action_that_it_lacks(self):
        for missing in iam.load("provision"):
            if (missing.action, missing.resource) in OPTIONAL:
                continue
            with self.system_without("provision", missing) as (system, rest):
                system.proxy.policies["provision"] = rest
                if missing.action == "dynamodb:UpdateTable":
                    system.dynamodb("CreateTable", outbox_without_stream())
                with self.assertRaises(AssertionError) as failed:
                    run(["provision", "--stock"], system.env("provision"))
                self.assertIn(missing.action, str(failed.exception))

    def test_readiness_of_the_relay_names_the_action_that_it_lacks(self):
        for missing in iam.load("outbox-relay"):
            if missing.action in RARE:
                continue
            with self.system_without("outbox-relay", missing) as (system, rest):
                system.provision()
                system.proxy.policies["outbox-relay"] = rest
                # Published, quarantined, and looked up with its predecessors.
                system.put_event(item("good", 1))
                system.put_event(item("bad", 1, payload="not JSON"))
                system.put_event(item("gap", 3))
                system.relay(wait=False)
                self.wait_until_red(system, "outbox-relay", missing)

    def test_readiness_of_the_worker_names_the_action_that_it_lacks(self):
        for missing in iam.load("inventory-worker"):
            with self.system_without("inventory-worker", missing) as (system, rest):
                system.provision()
                system.service("order-api", "ORDER_API_LISTEN")
                system.relay()
                system.order("WIDGET-1", 1)
                # The worker reads the age of dead letters, and deletes the message of an order
                # after longer than a third of its visibility timeout.
                system.send("order-events-dlq", "dead")
                system.proxy.delays["inventory-worker"] = 0.5
                system.proxy.policies["inventory-worker"] = rest
                settings = {"WORKER_VISIBILITY_TIMEOUT": "1s"}
                system.service("inventory-worker", "WORKER_ADMIN_LISTEN", False, **settings)
                self.wait_until_red(system, "inventory-worker", missing)

    def test_readiness_of_the_api_names_the_action_that_it_lacks(self):
        for missing in iam.load("order-api"):
            with self.system_without("order-api", missing) as (system, rest):
                system.provision()
                system.service("order-api", "ORDER_API_LISTEN")
                order = system.order("WIDGET-1", 1)
                system.proxy.policies["order-api"] = rest
                url = system.ports["order-api"] + "/orders"
                if missing.action == "dynamodb:GetItem":
                    self.assertEqual(503, request(f"{url}/{order}")[0])
                elif missing.action != "dynamodb:DescribeTable":
                    with self.assertRaises(AssertionError) as failed:
                        system.order("WIDGET-1", 1, key="key")
                    self.assertIn("503", str(failed.exception))
                self.wait_until_red(system, "order-api", missing)


if __name__ == "__main__":
    unittest.main(verbosity=2)
