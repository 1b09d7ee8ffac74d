"""Compares the policies of deploy/aws/roles.yaml with the files of deploy/iam.

moto deploys the template, and the policies are read from its IAM.
"""

import json
import unittest

import iam
from moto_server import client, deploy, moto, read

MOTO_ACCOUNT = "123456789012"
KEY = f"arn:aws:kms:{iam.REGION}:{MOTO_ACCOUNT}:key/11112222-3333-4444-5555-666677778888"
# Policies of each role; those of a key besides.
ROLES = {
    "OrderApiRole": {"order-api", "kms-tables"},
    "OutboxRelayRole": {
        "outbox-relay",
        "operator-read",
        "operator-act",
        "kms-tables",
        "kms-queues-send",
    },
    "InventoryWorkerRole": {"inventory-worker", "kms-tables", "kms-queues-receive"},
}


def listed(value):
    return value if isinstance(value, list) else [value]


def normal(document):
    """Returns a policy in which each statement has lists, without what only names it."""
    statements = []
    for statement in document["Statement"]:
        statement = dict(statement)
        statement["Action"] = sorted(listed(statement["Action"]))
        statement["Resource"] = sorted(listed(statement["Resource"]))
        condition = statement.get("Condition", {})
        statement["Condition"] = {
            operator: {key: listed(value) for key, value in keys.items()}
            for operator, keys in condition.items()
        }
        statements.append(statement)
    return {"Version": document["Version"], "Statement": statements}


def files():
    """Returns the policies of deploy/iam, with moto's account."""
    found = {}
    for file in iam.POLICIES.glob("*.json"):
        text = file.read_text(encoding="utf-8").replace(iam.ACCOUNT, MOTO_ACCOUNT)
        found[file.stem] = normal(json.loads(text))
    return found


class RolesTemplate(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.url = cls.enterClassContext(moto())
        resources = deploy(cls.url, iam.REGION, "roles", read("roles.yaml"), KmsKeyArn=KEY)
        cls.resources = resources
        cls.iam = client(cls.url, "iam", iam.REGION)
        cls.policies, cls.file_of = cls.described(cls.iam, resources)

    @staticmethod
    def described(service, resources):
        """Returns the deployed policies by the file that their description names."""
        policies, file_of = {}, {}
        for arn in resources.values():
            if ":policy/" in arn:
                policy = service.get_policy(PolicyArn=arn)["Policy"]
                version = policy["DefaultVersionId"]
                document = service.get_policy_version(PolicyArn=arn, VersionId=version)
                name = policy["Description"].removeprefix("deploy/iam/").removesuffix(".json")
                policies[name] = normal(document["PolicyVersion"]["Document"])
                file_of[arn] = name
        return policies, file_of

    def test_policies_are_those_of_the_files(self):
        self.maxDiff = None
        self.assertEqual(files(), self.policies)

    def test_each_role_has_the_policies_of_its_program(self):
        for role, expected in ROLES.items():
            attached = self.iam.list_attached_role_policies(RoleName=self.resources[role])
            arns = [one["PolicyArn"] for one in attached["AttachedPolicies"]]
            self.assertEqual(expected, {self.file_of[arn] for arn in arns}, role)

    def test_a_difference_is_found(self):
        for right, wrong in (
            ("dynamodb:GetRecords", "dynamodb:DeleteItem"),
            ("table/${OutboxTable}/index/by_state", "table/${OutboxTable}/index/*"),
            ("[TransactWriteItems]", "[TransactGetItems]"),
        ):
            template = read("roles.yaml")
            self.assertIn(right, template)
            name = f"planted-{abs(hash(right))}"
            resources = deploy(
                self.url, iam.REGION, name, template.replace(right, wrong, 1), KmsKeyArn=KEY
            )
            self.assertNotEqual(files(), self.described(self.iam, resources)[0], wrong)


if __name__ == "__main__":
    unittest.main(verbosity=2)
