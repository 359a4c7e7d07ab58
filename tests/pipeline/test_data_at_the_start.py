"""What data sets lack for a network or an objective is said before a run makes its folder."""

from __future__ import annotations

import pytest
import yaml
from runs import tiny_options, write_options
from torch import nn

from d2sm_plugin.archs.ffdnet_arch import FFDNet
from d2sm_plugin.errors import OptionError
from d2sm_plugin.pipeline import testing
from d2sm_plugin.pipeline import train as training
from d2sm_plugin.registry import ARCH_REGISTRY

PAIRED = {"type": "PairedImageDataset", "io_backend": {"type": "disk"}}


@ARCH_REGISTRY.register()
class TwoHeads(nn.Module):
    """Returns a second image, in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)

    def forward(self, lq):
        coarse = self.norm(self.first(lq))
        restored = self.second(coarse)
        return {"restored": restored, "coarse": coarse} if self.training else restored


def paired(images, **more) -> dict:
    return {**PAIRED, "dataroot_gt": str(images), "dataroot_lq": str(images), **more}


def gan(options) -> None:
    options["model_type"] = "GANModel"
    options["network_d"] = {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 4}
    options["train"] |= {"optim_d": {"type": "Adam", "lr": 1e-4}}
    options["train"]["gan_opt"] = {"type": "GANLoss", "gan_type": "vanilla", "takes": ["restored", "clean"]}


def validated_without_sigma(options) -> None:
    options["datasets"]["val"] = paired(options["datasets"]["val"]["dataroot_gt"], name="v")


def trained_without_sigma(options) -> None:
    crops = {"gt_size": 32, "use_hflip": True, "use_rot": True, "batch_size_per_gpu": 2, "num_worker_per_gpu": 0}
    options["datasets"]["train"] = paired(options["datasets"]["train"]["dataroot_gt"], **crops)


def unknown_entry(options) -> None:
    options["train"]["pixel_opt"]["takes"] = ["restored", "clean"]


CASES = {
    validated_without_sigma: "datasets.val: FFDNet takes lq, sigma, but the dataset gives no sigma",
    trained_without_sigma: "datasets.train: FFDNet takes lq, sigma, but the dataset gives no sigma",
    unknown_entry: "train.pixel_opt: it takes restored, clean, but neither .* give clean (given: gt, .*, restored, si",
    gan: "train.gan_opt.takes: it takes restored, clean, but neither the training sets nor the network give clean",
}


@pytest.mark.parametrize("change", CASES, ids=lambda change: change.__name__)
def test_what_is_lacking_is_named_before_anything_is_made(change, photographs, tmp_path):
    options = tiny_options(photographs, tmp_path)
    change(options)
    pattern = CASES[change].replace("(", r"\(")
    with pytest.raises(OptionError, match=pattern):
        training.train(["-opt", str(write_options(options, tmp_path / "a.yml"))])
    assert not (tmp_path / "experiments").exists()


def test_a_test_set_too(photographs, tmp_path):
    options = tiny_options(photographs, tmp_path)
    blocks = {"datasets": {"test": paired(photographs, name="t")}, "network_g": options["network_g"]}
    file = write_options({"name": "tiny", "num_gpu": 0, "path": options["path"], **blocks}, tmp_path / "a.yml")
    with pytest.raises(OptionError, match=r"datasets\.test: FFDNet takes lq, sigma"):
        testing.main(["-opt", str(file)])
    assert not (tmp_path / "results").exists()


def test_outputs_of_training_alone_are_known_and_change_nothing(photographs, tmp_path):
    """The network that tells its outputs is a copy: running means and random numbers stay as they were."""
    metrics = {}
    for name, takes in (("without", ["restored", "gt"]), ("with", ["coarse", "gt"])):
        options = tiny_options(photographs, tmp_path, total_iter=2)
        options |= {"name": name, "network_g": {"type": "TwoHeads"}}
        options["train"]["second_opt"] = {"type": "L1Loss", "loss_weight": 0.0, "takes": takes}
        assert training.train(["-opt", str(write_options(options, tmp_path / f"{name}.yml"))])
        metrics[name] = (tmp_path / "experiments" / name / "metrics.csv").read_text()
    assert metrics["with"] == metrics["without"]
    kept = yaml.safe_load((tmp_path / "experiments" / "with" / "options.yml").read_text())
    assert kept["train"]["second_opt"]["takes"] == ["coarse", "gt"]
    assert FFDNet.inputs == ("lq", "sigma")
