from __future__ import annotations

import copy
import csv

import numpy as np
import pytest
import torch
from basicsr.metrics import calculate_niqe
from runs import equal, tiny_options, weights, write_options

import d2sm_plugin  # noqa: F401
from d2sm_plugin.data.noisy_image_dataset import NoisyImageDataset
from d2sm_plugin.errors import CheckpointError, D2SMError, DataError, ForeignError, OptionError
from d2sm_plugin.metrics.images import to_uint8
from d2sm_plugin.pipeline import testing
from d2sm_plugin.pipeline import train as training
from d2sm_plugin.pipeline.image_records import read_records
from d2sm_plugin.pipeline.metrics_file import MetricsFile
from d2sm_plugin.pipeline.pictures import read_sheet

D2SM = {
    "type": "D2SMLoss",
    "loss_weight": 0.01,
    "extractor": {"type": "TimmFeatures", "model": "test_efficientnet", "weights": None},
    "patches": {"type": "PatchSampler", "size": 16, "stride": 8, "max_patches": 4},
    "queue": {"type": "QueueSampler", "size": 20},
}


def train(options, tmp_path, *arguments):
    path = write_options(options, tmp_path / f"{options['name']}.yml")
    assert training.main(["-opt", str(path), *arguments]) == 0


def test_a_run_leaves_what_basicsr_users_expect(photographs, tmp_path):
    options = tiny_options(photographs, tmp_path, ema_decay=0.5)
    options["val"] |= {"val_freq": 4, "save_img": True, "max_pictures": 2, "save_best": "psnr"}
    options["logger"] |= {"use_tb_logger": True, "keep_checkpoints": 1}
    train(options, tmp_path)
    folder = tmp_path / "experiments" / "tiny"
    assert {f.name for f in (folder / "models").iterdir()} == {
        "net_g_8.safetensors",
        "net_g_latest.safetensors",
        "net_g_best_psnr.safetensors",
    }
    assert [f.name for f in (folder / "training_states").iterdir()] == ["8.state"]
    assert len(list((folder / "visualization" / "photos").glob("*_8.png"))) == 2
    assert list((tmp_path / "tb_logger" / "tiny").iterdir())
    measured = read_records(folder / "by_image.csv")["photos"]
    assert len(measured) == 6 and np.mean([row.values["psnr"] for row in measured]) == pytest.approx(
        MetricsFile(folder / "metrics.csv").rows[-1].value
    )
    sheet = read_sheet(next((folder / "visualization" / "photos").glob("*_8.png")))
    assert list(sheet.images()) == ["input", "restored", "clean"]
    log = next(folder.glob("train_tiny_*.log")).read_text()
    for expected in ("Gradient of pixel", "l_pixel", "Validation photos, 6 images: psnr", "End of training"):
        assert expected in log
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    assert [(row["iter"], row["dataset"], row["metric"]) for row in rows] == [
        ("4", "photos", "psnr"),
        ("8", "photos", "psnr"),
    ]
    assert not equal(weights(tmp_path), weights(tmp_path, key="params_ema"))


def test_same_seed_same_weights_for_any_number_of_workers(photographs, tmp_path):
    options = tiny_options(photographs, tmp_path, d2sm_opt=D2SM)
    train(options, tmp_path)
    options["name"], options["datasets"]["train"]["num_worker_per_gpu"] = "again", 2
    train(options, tmp_path)
    assert equal(weights(tmp_path), weights(tmp_path, "again"))
    options["name"], options["manual_seed"] = "other", 8
    train(options, tmp_path)
    assert not equal(weights(tmp_path), weights(tmp_path, "other"))


def test_validation_does_not_change_training(photographs, tmp_path):
    options = tiny_options(photographs, tmp_path, d2sm_opt=D2SM)
    train(options, tmp_path)
    options["name"], options["val"]["val_freq"] = "validated", 2
    train(options, tmp_path)
    assert equal(weights(tmp_path), weights(tmp_path, "validated"))


@pytest.mark.parametrize(
    "extra",
    [
        {"d2sm_opt": D2SM, "ema_decay": 0.9},
        {"scheduler": {"type": "MultiStepLR", "milestones": [3, 6]}, "warmup_iter": 3, "accumulate": 2},
        {"scheduler": {"type": "CosineAnnealingRestartLR", "periods": [8], "eta_min": 1e-6}, "grad_clip": 0.01},
        {"optim_g": {"type": "SGD", "lr": 0.1, "momentum": 0.9}, "amp": "bf16", "channels_last": True},
    ],
    ids=["d2sm", "steps", "cosine", "bf16"],
)
def test_a_run_in_two_parts_equals_one_in_one(photographs, tmp_path, extra):
    options = tiny_options(photographs, tmp_path, **extra)
    train(options, tmp_path)
    options["name"] = "parts"
    for file in ("net_g_8.safetensors", "net_g_4.safetensors"):
        assert (tmp_path / "experiments" / "tiny" / "models" / file).exists()
    parts = tmp_path / "experiments" / "parts"
    (tmp_path / "experiments" / "tiny").rename(parts)
    whole = weights(tmp_path, "parts", "net_g_8.safetensors")
    (parts / "training_states" / "8.state").unlink()
    (parts / "models" / "net_g_8.safetensors").unlink()
    train(options, tmp_path, "--auto_resume")
    assert equal(whole, weights(tmp_path, "parts", "net_g_8.safetensors"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"random": [{"python": [3, ["x"], None]}]}, "it does not fit this training ("),
        ({"random": []}, "it does not fit this training ("),
        ({"optimizers": [3]}, "it does not fit this training ("),
        ({"schedulers": None}, "it does not fit this training ("),
        ({"random": None}, "its entry 'random' is damaged"),
        ({"iter": "4"}, "its entry 'iter' is damaged"),
        ({"drawn": -1}, "its entry 'drawn' is damaged"),
        ({"options": {"train": [], "datasets": 3}}, "it is damaged (|cannot go on with what has changed"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_state_with_entries_of_another_kind(photographs, tmp_path, damage, message):
    options = tiny_options(photographs, tmp_path, total_iter=4)
    train(options, tmp_path)
    file = tmp_path / "experiments" / "tiny" / "training_states" / "4.state"
    torch.save(torch.load(file, weights_only=True) | damage, file)
    with pytest.raises(D2SMError) as error:
        train(options, tmp_path, "--auto_resume", "--force_yml", "train:total_iter=6")
    assert any(part in str(error.value) for part in message.split("|")), error.value
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("ratios", [(None, None), (1, 3)])
def test_several_training_sets_are_one_and_go_on_exactly(photographs, tmp_path, ratios):
    options = tiny_options(photographs, tmp_path)
    second = {"type": "NoisyImageDataset", "dataroot_gt": str(photographs), "gt_size": 32, "sigma": 50, "num_images": 2}
    options["datasets"] |= {"train_2": second}
    for key, ratio in zip(("train", "train_2"), ratios, strict=True):
        options["datasets"][key] |= {"ratio": ratio}
    train(options, tmp_path)
    assert "Training images: 8;" in next((tmp_path / "experiments" / "tiny").glob("train_tiny_*.log")).read_text()
    parts = {**options, "name": "parts"}
    parts["datasets"] = copy.deepcopy(options["datasets"])
    parts["train"] = {**options["train"], "total_iter": 4}
    train(parts, tmp_path)
    parts["train"]["total_iter"], parts["datasets"]["train"]["num_worker_per_gpu"] = 8, 2
    train(parts, tmp_path, "--auto_resume")
    assert equal(weights(tmp_path), weights(tmp_path, "parts"))
    del options["datasets"]["train_2"], options["datasets"]["train"]["ratio"]
    train(options | {"name": "alone"}, tmp_path)
    assert not equal(weights(tmp_path), weights(tmp_path, "alone"))


def test_metrics_get_their_images_by_name_and_some_need_no_clear_one(tmp_path):
    from skimage import data, io

    (tmp_path / "pictures").mkdir()
    io.imsave(tmp_path / "pictures" / "cat.png", data.chelsea()[:288, :288], check_contrast=False)
    options = tiny_options(tmp_path / "pictures", tmp_path)
    niqe = {"type": "calculate_niqe", "crop_border": 0, "better": "lower"}
    options["val"] |= {"metrics": {"niqe": niqe}, "measure_input": True, "save_best": "niqe_input"}
    train(options, tmp_path)
    rows = list(csv.DictReader((tmp_path / "experiments" / "tiny" / "metrics.csv").open()))
    noisy = NoisyImageDataset(options["datasets"]["val"] | {"phase": "val"})[0]["lq"]
    expected = calculate_niqe(to_uint8(noisy)[..., ::-1], crop_border=0)  # as BasicSR itself gives it: BGR
    assert [row["metric"] for row in rows] == ["niqe", "niqe_input"]
    assert float(rows[1]["value"]) == pytest.approx(expected)
    options["val"]["metrics"] = {"psnr": {"type": "calculate_psnr", "crop_border": 144}}
    options["val"] |= {"save_best": None}
    with pytest.raises(OptionError, match=r"val\.metrics\.psnr\.crop_border: 144 leaves nothing .* 'cat' of 288x288"):
        train(options | {"name": "empty"}, tmp_path)
    assert not (tmp_path / "experiments" / "empty").exists()
    options["val"]["metrics"] = {"niqe": {**niqe, "crop_border": 120}}
    with pytest.raises(ForeignError, match=r"val\.metrics\.niqe: calculate_niqe on the image 'cat' of 288x288 raised"):
        train(options | {"name": "small"}, tmp_path)


def test_an_earlier_run_of_that_name_is_put_aside(photographs, tmp_path):
    options = tiny_options(photographs, tmp_path)
    train(options, tmp_path)
    train(options, tmp_path)
    assert len(list((tmp_path / "experiments").glob("tiny_archived_*"))) == 1


def test_mistakes_leave_nothing_behind(photographs, tmp_path):
    options = tiny_options(photographs, tmp_path)
    options["datasets"]["val"]["dataroot_gt"] = str(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"datasets\.val: .*nowhere"):
        train(options, tmp_path)
    assert not (tmp_path / "experiments").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_image_smaller_than_the_crop(photographs, tmp_path, workers):
    options = tiny_options(photographs, tmp_path)
    options["datasets"]["train"] |= {"gt_size": 512, "num_worker_per_gpu": workers}
    with pytest.raises(D2SMError, match=r"\.png.*96.*512") as caught:
        train(options, tmp_path)
    assert "Traceback" not in str(caught.value)


def test_objective_that_gets_nothing(photographs, tmp_path):
    options = tiny_options(photographs, tmp_path, noise_opt={"type": "TVLoss"})
    with pytest.raises(OptionError, match=r"train\.noise_opt: it takes noise_map, but neither.*given: .*restored"):
        train(options, tmp_path)


def test_checkpoint_of_another_architecture(photographs, tmp_path):
    options = tiny_options(photographs, tmp_path)
    train(options, tmp_path)
    options["name"] = "wider"
    options["network_g"]["num_feat"] = 16
    options["path"]["pretrain_network_g"] = str(tmp_path / "experiments" / "tiny" / "models" / "net_g_8.safetensors")
    with pytest.raises(CheckpointError, match=r"net_g_8\.safetensors: not a checkpoint of this FFDNet.*another shape"):
        train(options, tmp_path)


@pytest.mark.parametrize(
    ("model", "clip", "line"),
    [
        ("SRModel", None, "model_type SRModel: run as D2SMModel, which does the same."),
        ("SwinIRModel", None, "model_type SwinIRModel: run as D2SMModel, which does the same."),
        ("ImageCleanModel", None, "model_type ImageCleanModel: run as D2SMModel, which does the same."),
        ("ImageRestorationModel", 0.01, "run as D2SMModel, which does the same, with train.grad_clip 0.01 as there."),
    ],
)
def test_models_that_do_the_same_are_run_as_ours(photographs, tmp_path, model, clip, line):
    options = tiny_options(photographs, tmp_path, **({"grad_clip": clip} if clip else {}))
    train(options, tmp_path)
    foreign = tiny_options(photographs, tmp_path) | {"name": "theirs", "model_type": model}
    train(foreign, tmp_path)
    assert equal(weights(tmp_path), weights(tmp_path, "theirs"))
    assert line in next((tmp_path / "experiments" / "theirs").glob("train_*.log")).read_text()


def test_basicsr_models_are_refused_with_a_way_out(photographs, tmp_path):
    options = tiny_options(photographs, tmp_path)
    options["model_type"] = "ESRGANModel"
    with pytest.raises(OptionError, match=r"ESRGANModel is not made for this pipeline; did you mean 'GANModel'"):
        train(options, tmp_path)


def test_debug_runs_apart_and_validates_often(photographs, tmp_path):
    options = tiny_options(photographs, tmp_path)
    train(options, tmp_path, "--debug")
    log = next((tmp_path / "experiments" / "debug_tiny").glob("*.log")).read_text()
    assert log.count("l_pixel") == 8


def test_testing_writes_pictures_and_metrics(photographs, tmp_path):
    options = tiny_options(photographs, tmp_path)
    options["name"] = "tested"
    options["logger"]["use_tb_logger"] = True
    train(options, tmp_path)
    block = {**options["datasets"]["val"], "sigma": [25, 50]}
    test_options = {
        **{key: options[key] for key in ("num_gpu", "network_g")},
        "name": "tested",
        "datasets": {"test": block},
        "path": {
            **options["path"],
            "pretrain_network_g": str(tmp_path / "experiments" / "tested" / "models" / "net_g_latest.safetensors"),
        },
        "val": {
            "metrics": {"ssim": {"type": "calculate_ssim", "crop_border": 0}},
            "measure_input": True,
            "tile": 48,
            "tile_overlap": 16,
        },
    }
    path = write_options(test_options, tmp_path / "tested.yml")
    assert testing.main(["-opt", str(path)]) == 0
    assert [f.name for f in (tmp_path / "tb_logger").iterdir()] == ["tested"]  # the training's curves stay in place
    results = tmp_path / "results" / "tested"
    for level in (25, 50):
        assert len(list((results / "visualization" / f"photos_sigma{level}").glob("*.png"))) == 6
        assert len(list((results / "comparison" / f"photos_sigma{level}").glob("*.png"))) == 6
    rows = {(r["dataset"], r["metric"]): float(r["value"]) for r in csv.DictReader((results / "metrics.csv").open())}
    assert rows["photos_sigma25", "ssim_input"] > rows["photos_sigma50", "ssim_input"]
    assert torch.isfinite(torch.tensor(list(rows.values()))).all()
