"""Faces from end to end: an alignment network, DICNet with all of its objectives, and the table."""

from __future__ import annotations

import csv
import json

import pytest
from face_samples import face_folder
from runs import equal, weights, write_options

import d2sm_plugin  # noqa: F401
from d2sm_plugin.data.face_scaling import reduce_face
from d2sm_plugin.data.image_store import open_images
from d2sm_plugin.errors import DataError, OptionError
from d2sm_plugin.metrics.landmark_finder import LandmarkFinder
from d2sm_plugin.pipeline import testing
from d2sm_plugin.pipeline import train as training
from d2sm_plugin.pipeline.pictures import write_png
from d2sm_plugin.studies.evaluation import face_eval


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Four 128x128 faces and the table of their landmarks."""
    return face_folder(tmp_path_factory.mktemp("faces") / "hr", size=128)


def dataset(faces, **changes):
    folder, table = faces
    return {
        "type": "FaceDataset", "dataroot_gt": str(folder), "landmarks": str(table), "points": "helen29",
        "num_worker_per_gpu": 0, **changes,
    }  # fmt: skip


def options(faces, root, name, model, network, **train):
    return {
        "name": name,
        "model_type": model,
        "scale": 8,
        "num_gpu": 0,
        "datasets": {
            "train": dataset(faces, batch_size_per_gpu=2, use_hflip=True, use_rot=True, distort=[0.8, 1.2]),
            "val": dataset(faces, name="faces", num_images=2),
        },
        "network_g": network,
        "path": {"experiments_root": str(root / "experiments"), "results_root": str(root / "results")},
        "train": {"total_iter": 2, "optim_g": {"type": "Adam", "lr": 1e-3}, **train},
        "val": {"save_img": True},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 1, "use_tb_logger": False},
    }


HOURGLASS = {"type": "StackedHourglass", "num_points": 29, "num_stack": 2, "num_feat": 8}
DICNET = {
    "type": "DICNet", "points": "helen29", "num_feat": 4, "num_steps": 2, "num_groups": 2, "projection": 2,
    "num_fusion_blocks": 1, "num_hourglass_feat": 8,
}  # fmt: skip
ALIGN = {"type": "StepwiseLoss", "criterion": {"type": "MSELoss"}}
FEATURES = {"type": "LightCNN9Features", "weights": None}


@pytest.fixture(scope="module")
def hourglass(faces, tmp_path_factory):
    """A run that trained an alignment network for two steps."""
    root = tmp_path_factory.mktemp("hourglass")
    align = {**ALIGN, "takes": ["stacks", "gt_heatmaps"]}
    raw = options(faces, root, "hourglass", "AlignmentModel", HOURGLASS, align_opt=align)
    assert training.main(["-opt", str(write_options(raw, root / "hourglass.yml"))]) == 0
    return root / "experiments/hourglass"


def test_alignment_training_leaves_an_instrument_and_pictures(hourglass):
    finder = LandmarkFinder(hourglass / "models/net_g_latest.safetensors", "helen29", "cpu")
    assert len(finder.network.stacks) == 2
    assert len(list((hourglass / "visualization/faces").glob("*_2.png"))) == 2
    assert "l_align: " in next(hourglass.glob("*.log")).read_text()


def dicgan(faces, root, name="dicgan"):
    raw = options(
        faces, root, name, "DICModel", DICNET,
        optim_d={"type": "Adam", "lr": 1e-4},
        pixel_opt={"type": "StepwiseLoss", "criterion": {"type": "L1Loss"}},
        align_opt={**ALIGN, "takes": ["heatmaps", "gt_heatmaps"], "loss_weight": 0.1},
        perceptual_opt={"type": "FeatureLoss", "loss_weight": 0.1, "extractor": {**FEATURES, "layer": "pool4"}},
        gan_opt={"type": "GANLoss", "gan_type": "vanilla", "loss_weight": 0.005},
        d2sm_opt={
            "type": "D2SMLoss", "loss_weight": 0.01, "extractor": FEATURES, "queue": {"type": "QueueSampler", "size": 3}
        },
    )  # fmt: skip
    raw["network_d"] = {"type": "DICDiscriminator"}
    return raw


def run(raw, root, *arguments):
    assert training.main(["-opt", str(write_options(raw, root / f"{raw['name']}.yml")), *arguments]) == 0


def test_dicgan_with_d2sm_goes_on_bit_for_bit(faces, tmp_path):
    raw = dicgan(faces, tmp_path)
    run(raw, tmp_path)
    log = next((tmp_path / "experiments/dicgan").glob("*.log")).read_text()
    for name in ("pixel", "align", "perceptual", "gan", "d_real", "d_fake", "d2sm"):
        assert f"l_{name}: " in log
    assert "Gradient of d2sm" in log
    whole = {name: weights(tmp_path, "dicgan", f"{name}_2.safetensors") for name in ("net_g", "net_d")}
    parts = tmp_path / "experiments/dicgan"
    (parts / "training_states/2.state").unlink()
    for name in whole:
        (parts / f"models/{name}_2.safetensors").unlink()
    run(raw, tmp_path, "--auto_resume")
    for name, before in whole.items():
        assert equal(before, weights(tmp_path, "dicgan", f"{name}_2.safetensors"))


@pytest.fixture(scope="module")
def restored(faces, tmp_path_factory):
    """Faces that a small DICNet restored, by ``tools/test.py``."""
    root = tmp_path_factory.mktemp("restored")
    raw = options(faces, root, "dicnet", "DICModel", DICNET)
    raw["datasets"] = {"test": dataset(faces, name="faces")}
    del raw["train"], raw["logger"]
    assert testing.main(["-opt", str(write_options(raw, root / "test.yml"))]) == 0
    return root / "results/dicnet/visualization/faces"


def evaluate(faces, hourglass, out, *arguments):
    checkpoint = hourglass / "models/net_g_latest.safetensors"
    fixed = ["--clean", faces[0], "--landmarks", faces[1], "--points", "helen29", "--alignment", checkpoint]
    return face_eval.main([str(argument) for argument in (*fixed, "--out", out, *arguments)])


def test_table_of_several_methods(faces, hourglass, restored, tmp_path, capsys):
    lq = tmp_path / "lq"
    clean = open_images(faces[0])
    for key in clean.keys:
        write_png(lq / f"{key}.png", reduce_face(clean.read_rgb(key), 8))
    assert evaluate(faces, hourglass, tmp_path / "out", "--lq", lq, "--restored", f"DICNet={restored}") == 0
    table = capsys.readouterr().out
    assert table == (tmp_path / "out/table.md").read_text()
    assert "4 faces." in table and "interocular is the one to report" in table
    scores = json.loads((tmp_path / "out/metrics.json").read_text())
    assert list(scores) == ["bicubic", "DICNet", "clean"]
    assert scores["clean"]["PSNR Y"] is None and scores["clean"]["SSIM RGB"] == 1
    assert 15 < scores["bicubic"]["PSNR RGB"] < 40 and scores["bicubic"]["NRMSE interocular"] > 0
    with (tmp_path / "out/per_face.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows[:4]] == clean.keys
    mean = sum(float(row["NRMSE width"]) for row in rows[4:8]) / 4
    assert scores["DICNet"]["NRMSE width"] == pytest.approx(mean)
    assert {path.name for path in (tmp_path / "out/pictures").iterdir()} == {
        "comparison.png", *(f"{key}.png" for key in clean.keys)
    }  # fmt: skip


def test_tables_that_cannot_be_made(faces, hourglass, restored, tmp_path):
    with pytest.raises(OptionError, match="expected NAME=PATH"):
        evaluate(faces, hourglass, tmp_path, "--restored", restored)
    (tmp_path / "short.csv").write_text("image,x0,y0\nface_0,1,2\n")
    with pytest.raises(DataError, match="no landmarks of 3 faces"):
        evaluate((faces[0], tmp_path / "short.csv"), hourglass, tmp_path, "--restored", f"A={restored}")


def growing(faces, root, name):
    gan = {
        "type": "GANLoss", "gan_type": "wgan", "gradient_penalty": 2.5, "gradient_norm": 2.0, "drift": 1e-3,
    }  # fmt: skip
    train = {
        "total_iter": 4, "growth": {"ends": [1, 2], "fade": 2}, "optim_d": {"type": "Adam", "lr": 1e-3},
        "pixel_opt": {"type": "MSELoss"}, "attention_opt": {"type": "LandmarkAttentionLoss"}, "gan_opt": gan,
    }  # fmt: skip
    raw = options(faces, root, name, "ProgressiveModel", {"type": "PFSR", "num_feat": 16}, **train)
    raw["network_d"] = {"type": "PFSRDiscriminator", "num_feat": 4, "num_hidden": 8}
    return write_options(raw, root / f"{name}.yml")


def test_network_that_was_stopped_while_it_grew_goes_on_bit_for_bit(faces, tmp_path):
    path = growing(faces, tmp_path, "pfsr")
    assert training.main(["-opt", str(path)]) == 0
    whole = [weights(tmp_path, "pfsr", f"{label}_4.safetensors") for label in ("net_g", "net_d")]
    run = tmp_path / "experiments/pfsr"
    assert weights(tmp_path, "pfsr", "net_g_3.safetensors")["_extra_state"].tolist() == [3, 0.0]
    for file in ("training_states/4.state", "models/net_g_4.safetensors", "models/net_d_4.safetensors"):
        (run / file).unlink()
    assert training.main(["-opt", str(path), "--auto_resume"]) == 0
    for label, state in zip(("net_g", "net_d"), whole, strict=True):
        assert equal(state, weights(tmp_path, "pfsr", f"{label}_4.safetensors"))
