"""The JSON schema of suite files, beside that of option files."""

from __future__ import annotations

from d2sm_plugin.options.json_schema import DRAFT, Schema, model_schema
from d2sm_plugin.studies.compare.suite import Suite

#: Path of the schema of option files from that of suites.
_OPTIONS = "../schema.json"


def suite_schema() -> Schema:
    """Return the schema of suite files; blocks of options in it refer to that of option files."""
    suite = model_schema(Suite)
    keys = suite["properties"]
    options = {"$ref": _OPTIONS}
    keys |= {"extends": {"type": "string", "description": "suite file that this one is laid over"}, "options": options}
    keys["variants"]["additionalProperties"] = {
        "anyOf": [keys["variants"]["additionalProperties"], {"type": "null"}]  # an empty one changes nothing
    }
    keys["variants"]["additionalProperties"]["anyOf"][0]["properties"]["options"] = options
    for name in ("datasets", "val"):
        keys["test"]["properties"][name] = {"$ref": f"{_OPTIONS}#/properties/{name}"}
    return {"$schema": DRAFT, **suite}
