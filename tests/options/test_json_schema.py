"""The JSON schemas for editors: up to date, valid, mild to what is right, strict to what is wrong."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft7Validator
from referencing import Registry, Resource

import d2sm_plugin  # noqa: F401
from d2sm_plugin.options.files import shipped_folder
from d2sm_plugin.options.json_schema import option_schema
from d2sm_plugin.options.options import main
from d2sm_plugin.safe_yaml import read_yaml
from d2sm_plugin.studies.compare.suite_schema import suite_schema

FILES = sorted(shipped_folder().rglob("*.yml"))


@pytest.fixture(scope="module")
def validators():
    """Validators of option files and of suites."""
    schemas = {"schema.json": option_schema(), "suites/schema.json": suite_schema()}
    for schema in schemas.values():
        Draft7Validator.check_schema(schema)
    places = [(f"file:///options/{name}", Resource.from_contents(schema)) for name, schema in schemas.items()]
    registry = Registry().with_resources(places)
    return [Draft7Validator({"$ref": place}, registry=registry) for place, _ in places]


def degraded(*blocks):
    return {"datasets": {"val": {"type": "NoisyImageDataset", "degradations": list(blocks)}}}


def test_the_shipped_schemas_are_up_to_date():
    for name, schema in (("schema.json", option_schema()), ("suites/schema.json", suite_schema())):
        written = json.loads((shipped_folder() / name).read_text(encoding="utf-8"))
        assert written == schema, "run python tools/write_option_reference.py"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(shipped_folder()).as_posix())
def test_shipped_files_are_right(file, validators):
    of_options, of_suites = validators
    errors = (of_suites if "suites" in file.parts else of_options).iter_errors(read_yaml(file))
    assert [f"{list(error.absolute_path)}: {error.message}" for error in errors] == []


@pytest.mark.parametrize(
    ("content", "right"),
    [
        ({"extends": "train_ffdnet_l1.yml", "network_g": {"num_feat": 64}}, True),
        ({"network_g": {"type": "FFDNet", "num_feat": 64}, "network_d": None}, True),
        ({"network_g": {"type": "MyOwnNetwork", "anything": [1]}}, True),
        ({"network_g": {"type": "FFDNet", "num_fet": 64}}, False),
        ({"network_g": {"type": "FFDNet", "num_feat": "64"}}, False),
        ({"network_g": {"type": "FFDNet", "num_feat": 0}}, False),
        ({"network_g": {"type": "RRDBNet", "num_in_ch": True}}, False),
        ({"nam": "x"}, False),
        ({"datasets": {"tain": {"type": "NoisyImageDataset"}}}, False),
        ({"datasets": {"train": {"type": "NoisyImageDataset", "gt_sise": 3}}}, False),
        ({"datasets": {"val_2": {"type": "NoisyImageDataset", "sigma": [25, 35]}}}, True),
        ({"datasets": {"train": {"type": "NoisyImageDataset", "sigma": [25, 35]}}}, False),
        ({"datasets": {"train": {"type": "PairedImageDataset", "batch_size_per_gpu": 0}}}, False),
        (degraded({"type": "JPEG", "quality": [60, 95], "probability": 0.5}, {"type": "OneOf", "steps": []}), True),
        (degraded({"type": "Mine", "anything": 1}), True),
        (degraded({"type": "JPEG", "qualty": 60}), False),
        (degraded({"type": "OneOf", "steps": [{"type": "JPEG", "quality": "high"}]}), False),
        ({"train": {"pixel_opt": {"type": "L1Loss", "loss_weight": 1, "schedule": [[1, 0], [9, 1]]}}}, True),
        ({"train": {"pixel_opt": {"type": "L1Loss", "loss_weight": -1}}}, False),
        ({"train": {"pixel_opt": None, "frozen": {"aligner": 5}, "optim_d": {"type": "Adam", "eps": 1e-9}}}, True),
        ({"train": {"pixl": {"type": "L1Loss"}}}, False),
        ({"train": {"total_iter": "many"}}, False),
        ({"train": {"gan_opt": {"type": "GANLoss", "gan_type": "wgan", "gradient_penalty": 1}}}, True),
        ({"train": {"gan_opt": {"type": "GANLoss", "gan_type": "wgam"}}}, False),
        ({"train": {"d2sm_opt": {"type": "D2SMLoss", "extractor": "resnet18", "queue": 256}}}, True),
        ({"train": {"d2sm_opt": {"type": "D2SMLoss", "extractor": {"type": "VGG19Features", "layer": "fc8"}}}}, False),
        ({"train": {"d2sm_opt": {"type": "D2SMLoss", "patches": {"type": "PatchSampler", "sise": 224}}}}, False),
        ({"val": {"metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 0, "better": "higher"}}}}, True),
        ({"val": {"metrics": {"psnr": {"type": "calculate_psnr", "test_y_chanel": True}}}}, False),
        ({"val": {"segmentation": {"confg": "x"}}}, False),
        ({"manual_seed": 2**32}, False),
    ],
)
def test_what_editors_mark(content, right, validators):
    assert validators[0].is_valid(content) is right


@pytest.mark.parametrize(
    ("content", "right"),
    [
        ({"variants": {"L1": None, "other": {"options": {"train": {"d2sm_opt": None}}}}, "seeds": [0, 1]}, True),
        ({"variants": {"L1": {"option": {}}}}, False),
        ({"variants": {"L1": {"options": {"network_g": {"type": "FFDNet", "num_fet": 1}}}}}, False),
        ({"test": {"val": {"metrcs": {}}}}, False),
        ({"test": {"datasets": {"test": {"type": "NoisyImageDataset", "sigma": [25]}}}}, True),
        ({"seeds": ["one"]}, False),
    ],
)
def test_what_editors_mark_in_suites(content, right, validators):
    assert validators[1].is_valid(content) is right


def test_the_command_writes_it(tmp_path, capsys):
    main(["schema", "--out", str(tmp_path / "schema.json")])
    assert json.loads((tmp_path / "schema.json").read_text(encoding="utf-8")) == option_schema()
    main(["schema"])
    assert json.loads(capsys.readouterr().out) == option_schema()


def test_a_copied_file_has_its_schema_beside_it(tmp_path):
    main(["copy", "train_ffdnet_d2sm", "--out", str(tmp_path)])
    main(["copy", "suites/fig9_camvid", "--out", str(tmp_path)])
    for file in tmp_path.rglob("*.yml"):
        schema = file.read_text(encoding="utf-8").splitlines()[0].partition("$schema=")[2]
        assert (file.parent / schema).is_file()
