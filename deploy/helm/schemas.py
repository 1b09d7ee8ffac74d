#!/usr/bin/env python3
"""Writes JSON schemas for `kubeconform`: schemas.py FOLDER DEFINITION...

The schemas of Kubernetes come from the Python package `kubernetes_validate`, those of custom
resources from the files of their definitions. In all of them a property that the schema does not
name becomes an error, as for `kubectl apply --validate=strict`.

FOLDER then has a folder of schemas for each version of VERSIONS. Needs PyYAML.
"""

import importlib.util
import json
import pathlib
import sys

import yaml

# The oldest version that the chart supports (kubeVersion in Chart.yaml), and the newest.
VERSIONS = ("1.29.0", "1.37.0")


def strict(schema):
    """Returns the schema with `additionalProperties: false` wherever it names properties."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    result = {name: strict(part) for name, part in schema.items()}
    is_schema = isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema
    if is_schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result["additionalProperties"] = False
    return result


def references(schema):
    """Yields the names of the definitions that a schema refers to."""
    if isinstance(schema, list):
        for part in schema:
            yield from references(part)
    elif isinstance(schema, dict):
        for name, part in schema.items():
            # A schema of schemas has a property of this name.
            if name == "$ref" and isinstance(part, str):
                yield part.rpartition("/")[2]
            else:
                yield from references(part)


def local(schema):
    """Returns the schema with references to its own definitions."""
    if isinstance(schema, list):
        return [local(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: "#/$defs/" + part.rpartition("/")[2] if name == "$ref" and isinstance(part, str) else local(part)
        for name, part in schema.items()
    }


def with_definitions(schema, definitions):
    """Returns the schema with everything that it refers to, so that one file is complete."""
    needed, open_names = {}, set(references(schema))
    while open_names:
        name = open_names.pop()
        needed[name] = definitions[name]
        open_names |= set(references(definitions[name])) - needed.keys()
    return local({**schema, "$defs": needed})


def file_name(kind, group, version):
    """Returns the name by which `kubeconform` looks for the schema of a kind."""
    group = group.split(".")[0]
    return "-".join(filter(None, (kind.lower(), group, version))) + ".json"


def kubernetes(folder):
    """Yields a file name and a schema for each kind of a version of Kubernetes."""
    definitions = json.loads((folder / "_definitions.json").read_text(encoding="utf-8"))["$defs"]
    for schema in definitions.values():
        kinds = schema.get("x-kubernetes-group-version-kind", ())
        # The options of requests are registered for every group.
        if len(kinds) == 1:
            name = file_name(kinds[0]["kind"], kinds[0]["group"], kinds[0]["version"])
            yield name, with_definitions(schema, definitions)


def custom_resources(files):
    """Yields a file name and a schema for each version of the custom resources."""
    for file in files:
        definition = yaml.safe_load(pathlib.Path(file).read_text(encoding="utf-8"))["spec"]
        for version in definition["versions"]:
            name = file_name(definition["names"]["kind"], definition["group"], version["name"])
            yield name, version["schema"]["openAPIV3Schema"]


def main():
    target = pathlib.Path(sys.argv[1])
    # Not imported: only its data is installed.
    package = importlib.util.find_spec("kubernetes_validate").submodule_search_locations[0]
    for version in VERSIONS:
        folder = target / version
        folder.mkdir(parents=True)
        source = pathlib.Path(package) / "kubernetes-json-schema" / f"v{version}-local"
        for schemas in (kubernetes(source), custom_resources(sys.argv[2:])):
            for name, schema in schemas:
                (folder / name).write_text(json.dumps(strict(schema)), encoding="utf-8")


if __name__ == "__main__":
    main()
