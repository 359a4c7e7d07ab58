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
from d2sm_plugin.registry import build, check_arguments, lookup, register

PROMISED = {
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


def test_a_clash_names_both_modules():
    registry = Registry("test")

    def thing():
        pass

    def other():
        pass

    other.__name__ = "thing"
    register(registry)(thing)
    with pytest.raises(RegistrationError, match=r"'thing' is claimed twice.*by module .*test_registry"):
        register(registry)(other)


def test_build_names_what_is_wrong():
    with pytest.raises(OptionError, match=r"x\.type: no loss is registered as 'D2SMLos'; did you mean 'D2SMLoss'"):
        build(LOSS_REGISTRY, {"type": "D2SMLos"}, "x")
    with pytest.raises(OptionError, match=r"x: the key 'type' is missing"):
        build(LOSS_REGISTRY, {}, "x")
    with pytest.raises(OptionError, match=r"x: D2SMLoss needs extractor"):
        build(LOSS_REGISTRY, {"type": "D2SMLoss"}, "x")
    with pytest.raises(OptionError, match=r"x\.quue: D2SMLoss takes no such argument; did you mean 'queue'"):
        check_arguments(lookup(LOSS_REGISTRY, "D2SMLoss", "x"), {"extractor": 1, "quue": 1}, "x")


def test_there_is_one_version():
    assert d2sm_plugin.__version__ == importlib.import_module("d2sm_plugin.version").__version__
