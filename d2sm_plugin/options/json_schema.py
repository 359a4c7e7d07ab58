"""A JSON schema of option files, written from what checks them, so that editors complete keys and mark mistakes.

It is milder than the checks: a file may extend another one, so no key is required, and classes of one's own may be
named. Draft 7, which editors know best.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from d2sm_plugin.data.dataset_options import LoaderOptions
from d2sm_plugin.data.host_datasets import TYPED_HOST_DATASETS
from d2sm_plugin.degradations.chain import PROBABILITY
from d2sm_plugin.models.objective_weight import ObjectiveOptions, RelativeOptions
from d2sm_plugin.models.train_options import TrainOptions
from d2sm_plugin.options.checks import METRIC_IMAGES
from d2sm_plugin.options.host_arguments import is_of_host
from d2sm_plugin.options.reader import known_models
from d2sm_plugin.options.schema import LoggerOptions, Options
from d2sm_plugin.options.signatures import Argument, signature_of
from d2sm_plugin.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    DEGRADATION_REGISTRY,
    FEATURE_REGISTRY,
    LOGGER_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
)

Schema = dict[str, Any]
DRAFT = "http://json-schema.org/draft-07/schema#"
_REGISTRIES = {
    "arch": ARCH_REGISTRY, "loss": LOSS_REGISTRY, "metric": METRIC_REGISTRY, "feature": FEATURE_REGISTRY,
    "degradation": DEGRADATION_REGISTRY, "logger": LOGGER_REGISTRY,
}  # fmt: skip
_DROPPED = ("title", "default", "required", "discriminator")
_EXTENDS = {
    "type": "string",
    "description": "option file that this one is laid over: a path from here, or a shipped one",
}
_OPTIMISER = {
    "type": ["object", "null"],
    "properties": {
        "type": {"type": "string", "examples": ["Adam", "AdamW", "SGD"], "description": "any optimiser of torch.optim"},
        "lr": {"type": "number", "minimum": 0},
        "weight_decay": {"type": "number", "minimum": 0},
        "betas": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
    },
}
_SCHEDULER = {
    "type": ["object", "null"],
    "properties": {
        "type": {
            "type": "string",
            "examples": ["MultiStepLR", "CosineAnnealingLR", "CosineAnnealingRestartLR"],
            "description": "BasicSR's MultiStepLR or CosineAnnealingRestartLR, or any schedule of torch",
        },
        "milestones": {"type": "array", "items": {"type": "integer"}},
        "periods": {"type": "array", "items": {"type": "integer", "minimum": 1}},
    },
}


def schema_text(schema: Schema) -> str:
    """Return a schema as it is written into a file."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def option_schema() -> Schema:
    """Return the schema of option files."""
    definitions = {"dataset_train": _datasets("train"), "dataset_other": _datasets("val")}
    for kind, registry in _REGISTRIES.items():
        definitions[kind] = _blocks(kind, registry)
    options = model_schema(Options)
    options["properties"] |= {
        "extends": _EXTENDS,
        "datasets": {
            "type": "object",
            "description": Options.model_fields["datasets"].description,
            "patternProperties": {
                "^train(_.*)?$": {"$ref": "#/definitions/dataset_train"},
                "^(val|test)(_.*)?$": {"$ref": "#/definitions/dataset_other"},
            },
            "additionalProperties": False,
        },
        "network_g": {"$ref": "#/definitions/arch"},
        "network_d": {"$ref": "#/definitions/arch"},
        "train": _train(),
    }
    val = options["properties"]["val"]
    val["properties"]["metrics"] = {
        "type": ["object", "null"],
        "additionalProperties": {"$ref": "#/definitions/metric"},
    }
    options["properties"]["logger"]["properties"]["run_loggers"] = {
        "type": ["object", "null"],
        "description": LoggerOptions.model_fields["run_loggers"].description,
        "additionalProperties": {"$ref": "#/definitions/logger"},
    }
    return {"$schema": DRAFT, **options, "definitions": definitions}


def _train() -> Schema:
    """Return the block ``train``, with the keys of all models."""
    train = model_schema(TrainOptions)
    for model in known_models().values():
        if _is_ours(model):
            train["properties"] |= model_schema(model.train_options)["properties"]
    train["properties"] |= {"optim_g": _OPTIMISER, "optim_d": _OPTIMISER, "scheduler": _SCHEDULER}
    train["patternProperties"] = {"_opt$": {"$ref": "#/definitions/loss"}}
    train["additionalProperties"] = False
    return train


def _datasets(phase: str) -> Schema:
    """Return the block of a dataset in one phase: what the pipeline reads, and what each class reads."""
    classes = {}
    shipped = {name: cls.options_model for name, cls in _shipped(DATASET_REGISTRY) if hasattr(cls, "options_model")}
    for name, model in {**shipped, **TYPED_HOST_DATASETS}.items():
        dataset_keys = {key: value for key, value in model_schema(model)["properties"].items() if key != "phase"}
        if phase != "train" and "sigma" in dataset_keys:  # several levels are several sets
            dataset_keys["sigma"] = {
                "anyOf": [dataset_keys["sigma"], {"type": "array", "items": {"type": "number"}, "minItems": 1}]
            }
        if "degradations" in dataset_keys:
            dataset_keys["degradations"]["anyOf"][0]["items"] = {"$ref": "#/definitions/degradation"}
        classes[name] = dataset_keys
    return _by_type(classes, model_schema(LoaderOptions)["properties"])


def _blocks(kind: str, registry: Any) -> Schema:
    """Return blocks that name a class of a registry, and what each class takes."""
    shared = {
        "loss": {**model_schema(ObjectiveOptions)["properties"], "loss_weight": _loss_weight()},
        "metric": {"better": {"enum": ["higher", "lower"]}},
        "degradation": {
            PROBABILITY: {"type": "number", "minimum": 0, "maximum": 1, "description": "of its being done"}
        },
    }
    classes = {}
    for name, target in _shipped(registry):
        described = argument_descriptions(target)
        arguments = signature_of(target, METRIC_IMAGES if kind == "metric" else ()).arguments
        classes[name] = {
            argument.name: _argument(argument) | described.get(argument.name, {}) for argument in arguments.values()
        }
        if kind == "loss":
            classes[name].pop("loss_weight", None)
        if name == "GANLoss":
            classes[name] |= _of_gan_models()
    return _by_type(classes, shared.get(kind, {}))


def _loss_weight() -> Schema:
    """Return the weight of an objective, which its class or the model reads."""
    relative = model_schema(RelativeOptions) | {"additionalProperties": False}
    number = {"type": "number", "minimum": 0}
    return {"anyOf": [number, relative], "description": "factor on the result, or {relative: 0.5}, which sets itself"}


def _of_gan_models() -> Schema:
    """Return the keys of ``train.gan_opt`` that models with a discriminator read themselves."""
    models = [model for model in known_models().values() if hasattr(model, "gan_options") and _is_ours(model)]
    return {key: value for model in models for key, value in model_schema(model.gan_options)["properties"].items()}


def _by_type(classes: Mapping[str, Schema], shared: Schema) -> Schema:
    """Return a block whose further keys depend on its ``type``, which may also name a class that is not listed.

    Args:
        classes: name -> properties.
        shared: properties of all of them.
    """
    shared = {**shared, "type": {"anyOf": [{"enum": sorted(classes)}, {"type": "string"}]}}
    named: Schema = {key: {} for key in shared}
    return {
        "type": ["object", "null"],
        "properties": shared,
        "allOf": [
            {
                "if": {"properties": {"type": {"const": name}}, "required": ["type"]},
                "then": {"properties": {**named, **classes[name]}, "additionalProperties": False},
            }
            for name in sorted(classes)
        ],
    }


def _argument(argument: Argument) -> Schema:
    schema = _tidy(argument.adapter.json_schema())
    if argument.block is None:
        return schema
    kind = next(kind for kind, registry in _REGISTRIES.items() if registry is argument.block.registry)
    if schema.get("type") == "array":
        return schema | {"items": {"$ref": f"#/definitions/{kind}"}}
    members = [member for member in schema.get("anyOf", []) if member.get("type") not in ("object", "null")]
    return {"anyOf": [{"$ref": f"#/definitions/{kind}"}, *members]}


def model_schema(model: type[BaseModel]) -> Schema:
    """Return a typed model's schema, with the models within written out."""
    schema = model.model_json_schema()
    return _tidy(schema, schema.get("$defs", {}))


def _tidy(schema: Any, inner: Mapping[str, Any] | None = None) -> Any:
    """Return a schema without what editors do not need, and with references replaced by what they refer to."""
    if isinstance(schema, list):
        return [_tidy(part, inner) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        target = (inner or {})[schema["$ref"].rsplit("/", 1)[1]]
        schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
    tidied = {
        key: {name: _tidy(part, inner) for name, part in value.items()} if key == "properties" else _tidy(value, inner)
        for key, value in schema.items()
        if key not in _DROPPED and key != "$defs"
    }
    return tidied


def argument_descriptions(target: Callable[..., Any]) -> dict[str, Schema]:
    """Return what the docstring of a class or function of ours says about its arguments."""
    if is_of_host(target):
        return {}
    section = re.search(r"\nArgs:\n(.*?)(\n\S|\Z)", inspect.cleandoc(target.__doc__ or ""), flags=re.S)
    entries = re.findall(r"^    (\w+): (.*?)(?=^    \w|\Z)", section[1] + "\n" if section else "", flags=re.S | re.M)
    return {name: {"description": " ".join(text.replace("``", "").split())} for name, text in entries}


def _shipped(registry: Any) -> Iterable[tuple[str, Any]]:
    return [(name, target) for name, target in registry if _is_ours(target) or is_of_host(target)]


def _is_ours(target: Any) -> bool:
    return target.__module__.split(".")[0] == __name__.split(".", maxsplit=1)[0]
