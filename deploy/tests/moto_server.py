"""A moto server, and what its CloudFormation makes of a template."""

import contextlib
import pathlib
import subprocess
import sys

import boto3
import yaml

from processes import free_port, request, wait_for

TEMPLATES = pathlib.Path(__file__).resolve().parent.parent / "aws"


class Loader(yaml.SafeLoader):
    """Reads a template; `!Ref X` becomes {"Ref": "X"}, and so on."""


def intrinsic(loader, suffix, node):
    name = suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}"
    if isinstance(node, yaml.ScalarNode):
        return {name: loader.construct_scalar(node)}
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    return {name: loader.construct_mapping(node, deep=True)}


Loader.add_multi_constructor("!", intrinsic)


def read(template):
    return (TEMPLATES / template).read_text(encoding="utf-8")


def parse(template):
    """Parses the text of a template."""
    return yaml.load(template, Loader)


def client(url, service, region):
    return boto3.client(
        service,
        endpoint_url=url,
        region_name=region,
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


@contextlib.contextmanager
def moto():
    """Runs a moto server, and yields its address."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-p", str(port)]
    output = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=output, stderr=output) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for("moto", lambda: request(f"{url}/moto-api/data.json")[0] == 200)
            yield url
        finally:
            server.kill()


def deploy(url, region, name, template, **parameters):
    """Creates a stack of a template's text, and returns its resources: {logical id: physical id}."""
    stacks = client(url, "cloudformation", region)
    values = [
        {"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()
    ]
    stacks.create_stack(
        StackName=name,
        TemplateBody=template,
        Parameters=values,
        Capabilities=["CAPABILITY_IAM"],
    )
    status = stacks.describe_stacks(StackName=name)["Stacks"][0]
    if status["StackStatus"] != "CREATE_COMPLETE":
        raise AssertionError(f"stack {name}: {status}")
    summaries = stacks.list_stack_resources(StackName=name)["StackResourceSummaries"]
    return {one["LogicalResourceId"]: one["PhysicalResourceId"] for one in summaries}
