"""Judges request bodies by Azure's JSON schemas: prints a list with null, or what is wrong, for each.

Arguments: the folder of the schemas, a file with a list of {type, version, name, body}. The schemas let unknown
properties pass, so names are compared besides: each property of a body has to be one that its schema names.
"""

import json
import pathlib
import sys

import jsonschema
import referencing
import referencing.jsonschema

FOLDER = pathlib.Path(sys.argv[1])
COMMON = "https://schema.management.azure.com/schemas/common/definitions.json"
FILES = {
    "Microsoft.Compute": "Microsoft.Compute.json",
    "Microsoft.Network": "Microsoft.Network.NRP.json",
    "Microsoft.Resources": "Microsoft.Resources.json",
}
# The list of sizes is out of date, and Azure does not go by it.
OPEN = {"vmSize"}


def relax(node):
    """Opens the lists of what may be new."""
    if isinstance(node, dict):
        for name, inner in node.get("properties", {}).items() if isinstance(node.get("properties"), dict) else []:
            if name in OPEN and isinstance(inner, dict):
                node["properties"][name] = {"type": "string"}
        for inner in node.values():
            relax(inner)
    elif isinstance(node, list):
        for inner in node:
            relax(inner)


def load(path):
    document = json.loads(path.read_text())
    relax(document)
    return document


common = load(FOLDER / "common" / "definitions.json")


def resource(document):
    return referencing.Resource.from_contents(
        document, default_specification=referencing.jsonschema.DRAFT4
    )


def choices(document, schema):
    """The schemas that a value may follow, references and alternatives resolved."""
    if "$ref" in schema:
        target = schema["$ref"]
        where, _, pointer = target.partition("#")
        root = common if where.startswith(COMMON) else document
        found = root
        for part in pointer.strip("/").split("/"):
            found = found[part]
        return choices(root, found)
    found = [(document, schema)]
    for word in ("oneOf", "anyOf", "allOf"):
        for inner in schema.get(word, []):
            found += choices(document, inner)
    return found


def unknown(document, schema, value, path):
    """The first property that no schema names."""
    options = choices(document, schema)
    if isinstance(value, list):
        for where, option in options:
            if isinstance(option.get("items"), dict):
                for place, inner in enumerate(value):
                    wrong = unknown(where, option["items"], inner, f"{path}/{place}")
                    if wrong:
                        return wrong
        return None
    if not isinstance(value, dict):
        return None
    if any(isinstance(option.get("additionalProperties"), dict) for _, option in options):
        return None
    for name, inner in value.items():
        known = [
            (where, option["properties"][name])
            for where, option in options
            if name in option.get("properties", {})
        ]
        if not known:
            return f"{path}/{name} is no property"
        wrong = [unknown(where, option, inner, f"{path}/{name}") for where, option in known]
        if all(wrong):
            return wrong[0]
    return None


def judge(request):
    provider, _, kind = request["type"].partition("/")
    path = FOLDER / request["version"] / FILES[provider]
    document = load(path)
    definitions = {
        **document.get("resourceDefinitions", {}),
        **document.get("subscription_resourceDefinitions", {}),
    }
    if kind not in definitions:
        return f"{path} has no {kind}"
    body = {
        **request["body"],
        "type": request["type"],
        "apiVersion": request["version"],
        "name": request["name"],
    }
    registry = referencing.Registry().with_resources(
        [("urn:own", resource(document)), (COMMON, resource(common))]
    )
    section = "resourceDefinitions" if kind in document.get("resourceDefinitions", {}) else "subscription_resourceDefinitions"
    schema = {"$ref": f"urn:own#/{section}/{kind}"}
    validator = jsonschema.Draft4Validator(schema, registry=registry)
    error = next(iter(validator.iter_errors(body)), None)
    if error is not None:
        return f"{error.json_path}: {error.message[:300]}"
    return unknown(document, definitions[kind], body, "")


print(json.dumps([judge(request) for request in json.load(open(sys.argv[2]))]))
