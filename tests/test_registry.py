from __future__ import annotations

import importlib
import pkgutil

import pytest
from basicsr.utils.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
    Registry,
)

import d2sm_plugin
from d2sm_plugin.errors import OptionError, RegistrationError
from d2sm_plugin.registry import DEGRADATION_REGISTRY, build, check_arguments, lookup, register
from d2sm_plugin.registry import Registry as OwnRegistry

PROMISED = {
    DEGRADATION_REGISTRY: ["GaussianNoise", "PoissonGaussianNoise", "CameraNoise", "Blur", "JPEG", "Downscale"],
    LOSS_REGISTRY: ["D2SMLoss", "QueueSampler", "PatchSampler", "SpatialSampler", "AsymmetricNoiseLoss", "TVLoss"],
    MODEL_REGISTRY: ["D2SMModel", "GANModel", "DICModel"],
    ARCH_REGISTRY: ["FFDNet", "CBDNet", "SADNet", "DICNet", "MSBDN", "LightCNN9", "StackedHourglass"],
    DATASET_REGISTRY: ["NoisyImageDataset", "FaceDataset", "PairedImageDataset"],
    METRIC_REGISTRY: ["calculate_nrmse", "calculate_psnr"],
}


@pytest.mark.parametrize("registry", PROMISED, ids=lambda registry: registry._name)
def test_promised_names_are_registered(registry):
    for name in PROMISED[registry]:
        assert name in registry


@pytest.mark.parametrize(
    ("package", "suffix", "registry"),
    [
        ("archs", "_arch", ARCH_REGISTRY),
        ("losses", "_loss", LOSS_REGISTRY),
        ("data", "_dataset", DATASET_REGISTRY),
        ("metrics", "_metric", METRIC_REGISTRY),
        ("models", "_model", MODEL_REGISTRY),
        ("degradations", "_degradation", DEGRADATION_REGISTRY),
    ],
)
def test_every_scanned_file_registers_something(package, suffix, registry):
    modules = {obj.__module__ for _, obj in registry}
    path = importlib.import_module(f"d2sm_plugin.{package}").__path__
    for info in pkgutil.iter_modules(path):
        if info.name.endswith(suffix):
            assert f"d2sm_plugin.{package}.{info.name}" in modules


def test_registering_twice_is_harmless():
    module = importlib.import_module("d2sm_plugin.losses.tv_loss")
    importlib.reload(module)
    assert LOSS_REGISTRY.get("TVLoss") is module.TVLoss


@pytest.mark.parametrize("kind", [Registry, OwnRegistry])
def test_a_clash_names_both_modules(kind):
    registry = kind("test")

    def item():
        pass

    def other():
        pass

    other.__name__ = "item"
    register(registry)(item)
    with pytest.raises(RegistrationError, match=r"'item' is claimed twice.*by module .*test_registry"):
        register(registry)(other)


@pytest.mark.parametrize("kind", [Registry, OwnRegistry])
def test_names_that_basicsr_has_suffixed_are_found(kind):
    registry = kind("test")

    class Thing_basicsr:  # noqa: N801  # BasicSR's registry appends such a suffix where it is told to
        pass

    register(registry)(Thing_basicsr)
    assert lookup(registry, "Thing", "x") is Thing_basicsr
    with pytest.raises(OptionError, match=r"x: no test is registered as 'Thingy'"):
        lookup(registry, "Thingy", "x")


def test_build_names_what_is_wrong():
    with pytest.raises(OptionError, match=r"x\.type: no loss is registered as 'D2SMLos'; did you mean 'D2SMLoss'"):
        build(LOSS_REGISTRY, {"type": "D2SMLos"}, "x")
    with pytest.raises(OptionError, match=r"x: the key 'type' is missing"):
        build(LOSS_REGISTRY, {}, "x")
    with pytest.raises(OptionError, match=r"x: QueueSampler needs size"):
        build(LOSS_REGISTRY, {"type": "QueueSampler"}, "x")
    with pytest.raises(OptionError, match=r"x\.quue: D2SMLoss takes no such argument; did you mean 'queue'"):
        check_arguments(lookup(LOSS_REGISTRY, "D2SMLoss", "x"), {"extractor": 1, "quue": 1}, "x")


def test_suffixes_and_unknown_names_as_in_basicsr():
    tables = Registry("test"), OwnRegistry("test")

    def item():
        pass

    for table in tables:
        table.register(item, suffix="basicsr")
        assert table.get("item") is item and lookup(table, "item", "x") is item
        assert list(table) == [("item_basicsr", item)] and list(table.keys()) == ["item_basicsr"]
        assert "item" not in table and "item_basicsr" in table
        with pytest.raises(KeyError, match="No object named 'other' found in 'test' registry!"):
            table.get("other")


class LowerCaseRegistry(Registry):
    """As that of traiNNer-redux: names of any case."""

    def register(self, obj):
        self._do_register(obj.__name__.lower(), obj)

    def get(self, name):
        return self._obj_map[name.lower()]

    def __contains__(self, name):
        return name.lower() in self._obj_map


@pytest.mark.parametrize("kind", [Registry, LowerCaseRegistry])
def test_other_projects_get_all_objectives_by_one_call(kind):
    registry = kind("loss")
    names = d2sm_plugin.register_in(registry)
    assert {"D2SMLoss", "SSIMLoss", "PatchSampler", "QueueSampler"} <= set(names) and "L1Loss" not in names
    modules = {registry.get(name).__module__ for name in names}
    assert not any(name.startswith("basicsr.") for name in modules)
    assert d2sm_plugin.register_in(registry) == []


def test_other_projects_keep_their_names():
    registry = LowerCaseRegistry("loss")

    class SSIMLoss:
        pass

    registry.register(SSIMLoss)
    with pytest.warns(UserWarning, match="SSIMLoss not registered, as the loss registry holds other objects"):
        names = d2sm_plugin.register_in(registry, "D2SMLoss", "SSIMLoss")
    assert names == ["D2SMLoss"] and registry.get("SSIMLoss") is SSIMLoss
    assert d2sm_plugin.register_in(Registry("network"), "FFDNet", kind="arch") == ["FFDNet"]
    with pytest.raises(OptionError, match=r"no loss of d2sm_plugin is called 'D2SM'; did you mean 'D2SMLoss'"):
        d2sm_plugin.register_in(registry, "D2SM")
    with pytest.raises(OptionError, match=r"no kind 'losses'; did you mean 'loss'"):
        d2sm_plugin.register_in(registry, kind="losses")


def test_there_is_one_version():
    assert d2sm_plugin.__version__ == importlib.import_module("d2sm_plugin.version").__version__
