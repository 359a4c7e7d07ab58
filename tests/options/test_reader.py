from __future__ import annotations

import copy

import pytest
import yaml

import d2sm_plugin  # noqa: F401
from d2sm_plugin.errors import OptionError
from d2sm_plugin.options.reader import apply_override, read_options, validate_options
from d2sm_plugin.safe_yaml import parse_yaml

RAW = {
    "name": "x",
    "datasets": {
        "train": {"type": "NoisyImageDataset", "dataroot_gt": "images", "sigma_range": [0, 75], "gt_size": 64},
        "val_2": {"type": "NoisyImageDataset", "dataroot_gt": "images", "sigma": 25},
    },
    "network_g": {"type": "FFDNet"},
    "train": {"total_iter": 10, "optim_g": {"type": "AdamW", "lr": 1e-4}, "pixel_opt": {"type": "L1Loss"}},
}


def changed(path: str, value, raw=RAW) -> dict:
    raw = copy.deepcopy(raw)
    *parents, last = path.split(".")
    block = raw
    for key in parents:
        block = block.setdefault(key, {})
    if value is ...:
        del block[last]
    else:
        block[last] = value
    return raw


def test_defaults_are_filled_in():
    options = validate_options(copy.deepcopy(RAW))
    assert options["model_type"] == "D2SMModel"
    assert options["train"]["accumulate"] == 1
    assert options["train"]["pixel_opt"] == {"type": "L1Loss"}
    raw_block = RAW["datasets"]["val_2"]
    assert options["datasets"]["val_2"] == raw_block | {"phase": "val", "name": "val_2", "scale": 1}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("nam", "y", r"nam: unknown key; did you mean 'name'"),
        ("val.val_frq", 5, r"val\.val_frq: unknown key; did you mean 'val_freq'"),
        ("train.pixl_opt_", 5, r"train\.pixl_opt_: unknown key; did you mean 'pixel_opt'"),
        ("train.pixel_opt", "L1Loss", r"train\.pixel_opt: expected a block with a 'type'"),
        ("train.pixel_opt", {"type": "L1Los"}, r"train\.pixel_opt\.type: no loss is registered as 'L1Los'.*'L1Loss'"),
        ("train.pixel_opt", {"type": "L1Loss", "wight": 1}, r"train\.pixel_opt\.wight: L1Loss takes no such argument"),
        ("train.total_iter", "many", r"train\.total_iter: .*integer.*'many'"),
        ("train.total_iter", ..., r"train\.total_iter: this key is missing"),
        ("train.pixel_opt", ..., r"train: no objective"),
        ("train.optim_g.type", "Adm", r"train\.optim_g\.type: torch\.optim has no 'Adm'; did you mean 'Adam'"),
        ("train.optim_g.lrr", 1, r"train\.optim_g\.lrr: AdamW takes no such argument; did you mean 'lr'"),
        ("train.scheduler", {"type": "MultStepLR"}, r"train\.scheduler\.type: no scheduler .*'MultiStepLR'"),
        ("train.scheduler", {"type": "MultiStepLR"}, r"train\.scheduler: .* needs milestones"),
        ("network_g.type", "FFDNett", r"network_g\.type: no arch is registered as 'FFDNett'; did you mean 'FFDNet'"),
        ("network_g.num_fet", 3, r"network_g\.num_fet: FFDNet takes no such argument; did you mean 'num_feat'"),
        ("datasets.tain", {"type": "PairedImageDataset"}, r"datasets\.tain: .*did you mean 'train'"),
        ("datasets.train.type", "NoisyImage", r"datasets\.train\.type: .*did you mean 'NoisyImageDataset'"),
        ("datasets.train.batch_size_per_gpu", 0, r"datasets\.train\.batch_size_per_gpu: expected a number above 0"),
        ("datasets.train", ..., r"datasets: training needs a dataset 'train'"),
        ("model_type", "D2SModel", r"model_type: no model is registered as 'D2SModel'; did you mean 'D2SMModel'"),
        ("val.metrics", {"psnr": {"type": "calculate_psnr"}}, r"val\.metrics\.psnr: calculate_psnr needs crop_border"),
        ("val.segmentation", {"confg": "x"}, r"val\.segmentation\.confg: unknown key; did you mean 'config'"),
        ("name", "a/b", r"name: expected a name for a file or folder, which '/' cannot be part of"),
        ("train", ..., r"train: this block is missing"),
    ],
)
def test_mistakes_are_named_with_their_path(path, value, message):
    with pytest.raises(OptionError, match=message):
        validate_options(changed(path, value))


def test_message_names_the_file(tmp_path):
    path = tmp_path / "a.yml"
    path.write_text(yaml.safe_dump(changed("nam", 1)), encoding="utf-8")
    with pytest.raises(OptionError, match=r"a\.yml: nam: unknown key"):
        read_options(path)
    with pytest.raises(OptionError, match=r"missing\.yml: no such option file"):
        read_options(tmp_path / "missing.yml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object/apply:os.system [ls]", "no tags that build objects"),
        ("a: [1", "not valid YAML"),
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' is given twice"),
        ("- 1", "expected 'key: value' lines"),
    ],
)
def test_yaml_that_is_refused(tmp_path, text, message):
    path = tmp_path / "a.yml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(OptionError, match=message):
        read_options(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("!!float 2e-4", 2e-4), ("1.5e3", 1500.0), ("5", 5), ("~", None), ("[1, 2e-1]", [1, 0.2]),
     ("true", True), ("1e4x", "1e4x"), ("-3", -3), (".5", 0.5)],
)  # fmt: skip
def test_numbers_are_what_everybody_means(text, value):
    assert parse_yaml(text, "test") == value


def test_overrides():
    raw = copy.deepcopy(RAW)
    apply_override(raw, "train:optim_g:lr=2e-3")
    apply_override(raw, "train:d2sm_opt={type: L1Loss}")
    apply_override(raw, "val:val_freq=5")
    assert raw["train"]["optim_g"]["lr"] == 2e-3
    assert raw["train"]["d2sm_opt"] == {"type": "L1Loss"}
    assert raw["val"] == {"val_freq": 5}
    with pytest.raises(OptionError, match="expected path:to:key=value"):
        apply_override(raw, "train")
    with pytest.raises(OptionError, match="'name' is a value, not a block"):
        apply_override(raw, "name:x=1")


def test_an_objective_may_be_switched_off():
    raw = changed("train.d2sm_opt", None)
    assert validate_options(raw)["train"]["d2sm_opt"] is None
