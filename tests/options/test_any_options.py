"""Whatever stands in an option file, it is validated or refused: with an error of ours, in one line."""

from __future__ import annotations

import copy

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_reader import RAW

import d2sm_plugin  # noqa: F401
from d2sm_plugin.errors import D2SMError, OptionError
from d2sm_plugin.options.reader import apply_override, read_options, validate_options

WHOLE = copy.deepcopy(RAW) | {
    "model_type": "D2SMModel",
    "path": {"experiments_root": "experiments", "strict_load_g": True},
    "val": {
        "val_freq": 5, "save_best": "psnr", "tile": 256, "tile_overlap": 32, "suffix": "x",
        "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 0, "better": "higher"}},
        "segmentation": {"config": "a", "checkpoint": "b", "labels": "c"},
    },
    "logger": {"print_freq": 10, "wandb": None},
    "manual_seed": 3,
}  # fmt: skip
WHOLE["datasets"]["train_2"] = {
    "type": "PairedImageDataset", "dataroot_gt": "a", "dataroot_lq": "b", "io_backend": {"type": "disk"},
    "gt_size": 64, "use_hflip": True, "use_rot": False,
}  # fmt: skip
WHOLE["train"] |= {
    "warmup_iter": 2,
    "scheduler": {"type": "MultiStepLR", "milestones": [5], "gamma": 0.5},
    "d2sm_opt": {
        "type": "D2SMLoss", "loss_weight": 1e-3, "reduction": "mean", "divergence": "kl",
        "extractor": {"type": "TimmFeatures", "model": "tf_efficientnet_lite0", "weights": None, "stride": 16},
        "patches": {"type": "PatchSampler", "size": 32, "stride": 16, "mode": "shared", "max_patches": 8},
        "queue": {"type": "QueueSampler", "size": 64},
        "schedule": [[1, 0], [5, 1]], "takes": ["restored", "gt"],
    },
}  # fmt: skip


def paths(block, path=()):
    yield path
    items = block.items() if isinstance(block, dict) else enumerate(block) if isinstance(block, list) else ()
    for key, value in items:
        yield from paths(value, (*path, key))


PATHS = sorted(filter(None, paths(WHOLE)), key=repr)
words = st.sampled_from(["", "x", "1e-4", "8", "~", "../x", "a\nb", "true", "FFDNet", "L1Loss", "type", "é\u2028", "."])
numbers = st.integers(-3, 300) | st.sampled_from([2**31, 2**63 - 1, -(2**63), 10**12])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | words | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.just("type"), inner, max_size=3),
    max_leaves=5,
)
changes = st.lists(
    st.tuples(st.sampled_from(PATHS), st.sampled_from(["set", "drop", "add"]), words, values), max_size=4
)


def change(raw, path, action, word, value):
    """Change a nested block at a path, as far as it is still there."""
    block = raw
    for key in path[:-1]:
        if not (isinstance(block, dict) and key in block) and not (isinstance(block, list) and is_in(block, key)):
            return
        block = block[key]
    last = path[-1]
    if action == "set" and (isinstance(block, dict) or (isinstance(block, list) and is_in(block, last))):
        block[last] = value
    elif isinstance(block, dict) and action == "drop":
        block.pop(last, None)
    elif isinstance(block, dict):
        block[word] = value


def is_in(block, index):
    return isinstance(index, int) and index < len(block)


def check(read):
    try:
        assert read()["name"]
    except D2SMError as error:
        assert str(error) and "\n" not in " ".join(str(error).split())
        assert len(str(error)) < 6000


def test_the_whole_is_right():
    assert validate_options(copy.deepcopy(WHOLE))["train"]["total_iter"] == 10


@given(changes, st.booleans())
@settings(max_examples=250)
@example([(("train", "total_iter"), "set", "", 10**12)], True)
@example([(("train", "scheduler", "milestones"), "set", "", [2**63 - 1])], True)
@example([(("datasets", "train"), "set", "", {"type": ["x"]})], True)
@example([(("datasets", "val_2", "type"), "set", "", {})], False)
@example([(("train", "d2sm_opt", "queue"), "set", "", "QueueSampler")], True)
@example([(("train", "d2sm_opt", "queue"), "set", "", True)], True)
@example([(("train", "d2sm_opt", "patches"), "set", "", {"type": None})], True)
@example([(("train", "d2sm_opt", "extractor"), "set", "", "")], True)
@example([(("train", "d2sm_opt", "schedule"), "set", "", [[1, float("nan")]])], True)
@example([(("val", "metrics"), "set", "", {"": {"type": "calculate_psnr"}})], True)
@example([(("network_g",), "set", "", {"type": "FFDNet", 5: 1, None: 2})], True)
@example([(("datasets",), "set", "", {5: {}, "train": None})], True)
@example([(("train",), "set", "", {5: {}})], True)
@example([(("network_g", "type"), "set", "", "")], True)
def test_any_change_is_validated_or_refused(changed, is_train):
    raw = copy.deepcopy(WHOLE)
    for place in changed:
        change(raw, *place)
    check(lambda: validate_options(raw, is_train))


@given(values)
@settings(max_examples=60)
def test_any_block_in_the_place_of_the_whole(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "any.yml"
    path.write_text(yaml.safe_dump(value, allow_unicode=True), encoding="utf-8")
    check(lambda: read_options(path))


@given(st.lists(st.sampled_from(["train", "optim_g", "lr", ":", "=", "{", "[", "1", "~", " ", "x", "datasets", "é"])))
@settings(max_examples=150)
def test_any_override_is_applied_or_refused(parts):
    raw = copy.deepcopy(WHOLE)
    try:
        apply_override(raw, "".join(parts))
    except OptionError as error:
        assert str(error).startswith("--force_yml ")
