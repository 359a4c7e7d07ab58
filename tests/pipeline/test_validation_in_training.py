"""Metrics of whole sets, several best networks, and trainings that end when nothing gets better."""

from __future__ import annotations

import csv

import pytest
from runs import equal, tiny_options, weights, write_options

from d2sm_plugin.errors import OptionError
from d2sm_plugin.pipeline import train as training

DIVERGENCE = {
    "type": "SemanticDivergence",
    "extractor": {"type": "TimmFeatures", "model": "test_efficientnet", "weights": None},
    "positions": 4,
}


def train(options, tmp_path, *arguments):
    return training.main(["-opt", str(write_options(options, tmp_path / f"{options['name']}.yml")), *arguments])


def validations(tmp_path, name="tiny"):
    rows = csv.DictReader((tmp_path / "experiments" / name / "metrics.csv").open())
    return [(int(row["iter"]), row["metric"], float(row["value"])) for row in rows]


def test_metrics_of_sets_and_several_best_networks(photographs, tmp_path):
    options = tiny_options(photographs, tmp_path)
    options["val"] |= {"val_freq": 4, "measure_input": True, "save_best": ["psnr", "divergence"]}
    options["val"]["metrics"] = {**options["val"]["metrics"], "divergence": DIVERGENCE}
    assert train(options, tmp_path) == 0
    values = {(step, metric): value for step, metric, value in validations(tmp_path)}
    assert set(values) == {(s, m) for s in (4, 8) for m in ("psnr", "psnr_input", "divergence", "divergence_input")}
    assert values[4, "divergence_input"] == values[8, "divergence_input"] > 0
    lowest = min((4, 8), key=lambda step: values[step, "divergence"])
    best = weights(tmp_path, file="net_g_best_divergence.safetensors")
    assert equal(best, weights(tmp_path, file=f"net_g_{lowest}.safetensors")) or lowest == 4
    assert (tmp_path / "experiments/tiny/models/net_g_best_psnr.safetensors").is_file()


def test_a_training_ends_when_nothing_gets_better(photographs, tmp_path, caplog):
    options = tiny_options(photographs, tmp_path)
    options["train"]["optim_g"]["lr"] = 1e-12  # nothing changes, so the first validation stays the best
    options["val"] |= {"val_freq": 1, "save_best": "psnr", "patience": 3}
    assert train(options, tmp_path) == 0
    assert [step for step, _, _ in validations(tmp_path)] == [1, 2, 3, 4]
    assert train(options, tmp_path, "--auto_resume") == 0  # it has ended, and stays so
    assert [step for step, _, _ in validations(tmp_path)] == [1, 2, 3, 4]
    options["val"]["patience"] = None
    assert train(options, tmp_path, "--auto_resume") == 0
    assert [step for step, _, _ in validations(tmp_path)] == list(range(1, 9))


def test_patience_needs_something_to_wait_for(photographs, tmp_path):
    options = tiny_options(photographs, tmp_path)
    options["val"] |= {"patience": 3}
    with pytest.raises(OptionError, match=r"val\.patience: it counts validations without a better val\.save_best"):
        train(options, tmp_path)
    options["val"] |= {"val_freq": 1, "save_best": ["psnr", "sharpness"]}
    with pytest.raises(OptionError, match=r"val\.save_best: no figure 'sharpness' is measured"):
        train(options, tmp_path)
