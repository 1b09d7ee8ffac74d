#!/usr/bin/env python3
"""Shows that .ci/check-workflows finds errors: each test makes one in a copy of the workflows."""

import pathlib
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[1]

# What is wrong: file, text, its replacement, and a part of the report.
ERRORS = {
    "an action that is pinned by a tag": ("ci.yml", "@de0fac2e4500dabe0009e67214ff5f5447ce83dd # v6.0.2", "@v6", "pin these"),
    "a pin without its version": ("ci.yml", " # v6.4.0", "", "pin these"),
    "an unknown key": ("ci.yml", "timeout-minutes: 120", "timeout: 120", "timeout"),
    "a job that does not exist": ("release.yml", "needs: [binaries, image]", "needs: [binaries, images]", "images"),
    "an output that no step has": ("release.yml", "steps.image.outputs.digest", "steps.images.outputs.digest", "images"),
    "a permission that does not exist": ("release.yml", "attestations: write", "attestation: write", "attestation"),
    "a runner that does not exist": ("release.yml", "runner: ubuntu-24.04-arm }", "runner: ubuntu-arm }", "ubuntu-arm"),
    "a script that splits words": ("release.yml", '"$TOKEN" |', "$TOKEN |", "SC2086"),
    "a script with text of others in it": ("ci.yml", "- run: .ci/run", "- run: echo ${{ github.event.pull_request.title }}", "untrusted"),
}


class PlantedErrors(unittest.TestCase):
    def check(self, folder):
        done = subprocess.run([ROOT / ".ci/check-workflows", folder], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def test_errors_are_found(self):
        for name, (file, text, replacement, expected) in ERRORS.items():
            with self.subTest(name), tempfile.TemporaryDirectory() as folder:
                copy = pathlib.Path(shutil.copytree(ROOT / ".github/workflows", pathlib.Path(folder, "workflows")))
                original = (copy / file).read_text(encoding="utf-8")
                self.assertIn(text, original)
                (copy / file).write_text(original.replace(text, replacement, 1), encoding="utf-8")
                code, report = self.check(copy)
                self.assertEqual(code, 1, report)
                self.assertIn(expected, report)


if __name__ == "__main__":
    unittest.main()
