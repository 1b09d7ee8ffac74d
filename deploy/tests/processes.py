"""Starts the project's programs, and waits for them."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]


def program():
    """Returns the path of `all-in-one`, which is every program of the project in one."""
    path = os.environ.get("ALL_IN_ONE")
    if not path:
        raise SystemExit("set ALL_IN_ONE to the path of the program all-in-one")
    return path


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def environment(endpoint=None, **variables):
    """Returns the environment of a program: AWS variables of this machine do not apply."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "OTEL_"))}
    env.update(
        AWS_REGION="us-east-1",
        AWS_ACCESS_KEY_ID="test",
        AWS_SECRET_ACCESS_KEY="test",
        AWS_EC2_METADATA_DISABLED="true",
    )
    if endpoint:
        env["AWS_ENDPOINT_URL"] = endpoint
    env.update(variables)
    return env


def run(arguments, env, allowed=(0,)):
    """Runs a command of `all-in-one` to its end, and returns its standard output."""
    result = subprocess.run(
        [program(), *arguments], env=env, capture_output=True, text=True, timeout=120
    )
    if result.returncode not in allowed:
        raise AssertionError(
            f"{' '.join(arguments)} ended with {result.returncode}:\n{result.stdout}{result.stderr}"
        )
    return result.stdout


class Process:
    """A running program; its output is shown when something fails."""

    def __init__(self, arguments, env, log):
        self.log = log
        with open(log, "ab") as output:
            self.child = subprocess.Popen(
                [program(), *arguments], env=env, stdout=output, stderr=subprocess.STDOUT
            )

    def kill(self):
        self.child.kill()
        self.child.wait()

    def stop(self):
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()


def request(url, body=None, headers=None):
    """Sends a request; returns the status and the parsed body, also of an error."""
    data = None if body is None else json.dumps(body).encode()
    call = urllib.request.Request(url, data, headers or {})
    try:
        with urllib.request.urlopen(call, timeout=30) as response:
            return response.status, parse(response.read())
    except urllib.error.HTTPError as error:
        return error.code, parse(error.read())


def parse(raw):
    try:
        return json.loads(raw or b"null")
    except ValueError:
        return raw.decode(errors="replace")


def aws(endpoint, target, body, program="test"):
    """Sends a request of DynamoDB's or SQS's JSON protocol, as `program`."""
    version = "1.0"
    credential = f"{program}/20260101/us-east-1/dynamodb/aws4_request"
    headers = {
        "X-Amz-Target": target,
        "Content-Type": f"application/x-amz-json-{version}",
        "X-Amz-Date": time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()),
        "Authorization": f"AWS4-HMAC-SHA256 Credential={credential}, "
        "SignedHeaders=host;x-amz-date, Signature=" + "0" * 64,
    }
    return request(endpoint, body, headers)


def wait_for(what, condition, seconds=120):
    """Waits until `condition` returns something true, and returns that."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = condition()
        except OSError:
            found = None
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds} s still waiting for {what}")
        time.sleep(0.1)
