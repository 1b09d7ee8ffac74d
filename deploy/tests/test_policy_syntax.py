"""Checks syntax, actions, resource types and condition keys of the policies with parliament."""

import unittest

from parliament import analyze_policy_string

import iam


def findings(text):
    found = analyze_policy_string(text).findings
    return [f"{one.issue}: {one.detail}" for one in found]


class PolicySyntax(unittest.TestCase):
    def test_policies_are_right(self):
        files = sorted(iam.POLICIES.glob("*.json"))
        self.assertTrue(files)
        for file in files:
            self.assertEqual([], findings(file.read_text(encoding="utf-8")), file.name)

    def test_errors_are_found(self):
        text = (iam.POLICIES / "order-api.json").read_text(encoding="utf-8")
        for right, wrong in (
            ("dynamodb:GetItem", "dynamodb:GetRow"),
            ("dynamodb:EnclosingOperation", "dynamodb:EnclosingCall"),
            ('"Effect": "Allow"', '"Effect": "Permit"'),
            (":table/orders", ":index/orders"),
        ):
            self.assertIn(right, text)
            self.assertTrue(findings(text.replace(right, wrong)), wrong)


if __name__ == "__main__":
    unittest.main(verbosity=2)
