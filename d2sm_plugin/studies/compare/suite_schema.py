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
    val = {"$ref": f"{_OPTIONS}#/properties/val"}
    for row in (keys["variants"]["additionalProperties"]["anyOf"][0], keys["tested"]["additionalProperties"]):
        row["properties"] |= {"options": options, "val": val}
    keys["test"]["properties"] |= {"datasets": {"$ref": f"{_OPTIONS}#/properties/datasets"}, "val": val}
    return {"$schema": DRAFT, **suite}
