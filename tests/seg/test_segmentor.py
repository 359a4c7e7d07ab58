from __future__ import annotations

import random
import warnings

import cv2
import numpy as np
import pytest
import torch
from seg_material import write_tiny

from d2sm_plugin.errors import OptionError, ShapeError
from d2sm_plugin.seg import ConfusionMatrix, build_segmentor
from d2sm_plugin.seg.classes import CAMVID, CITYSCAPES
from d2sm_plugin.seg.openmmlab import find_config, read_config

pytest.importorskip("mmseg")

# Three frames of CamVid's test set, with the network of ../shared/weights: figures recorded from mmseg's own loop.
SUBSET = ("0001TP_008550", "Seq05VD_f00000", "Seq05VD_f02160")


def rgb(path) -> np.ndarray:
    return cv2.imread(str(path))[..., ::-1].copy()


def as_images(*arrays: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def picture(height: int = 48, width: int = 80, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height))


def mmseg_prediction(config: str, checkpoint: str, images: list[np.ndarray]) -> torch.Tensor:
    """Predictions of mmseg's own inference loop for RGB images."""
    from mmengine import Config
    from mmseg.apis import inference_model, init_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = init_model(Config.fromfile(str(find_config(config))), checkpoint, "cpu")
        return torch.stack(
            [inference_model(model, np.ascontiguousarray(i[..., ::-1])).pred_sem_seg.data[0] for i in images]
        )


def test_paper_judge_is_found_by_name():
    path = find_config("fcn_hr48_4xb2-160k_cityscapes-512x1024")
    assert path.name == "fcn_hr48_4xb2-160k_cityscapes-512x1024.py"
    config = read_config("hrnet/fcn_hr48_4xb2-160k_cityscapes-512x1024.py")
    assert config.model.decode_head.num_classes == 19
    assert config.model.backbone.extra.stage4.num_channels == (48, 96, 192, 384)


def test_unknown_config_names_near_ones(tmp_path):
    with pytest.raises(OptionError, match=r"near ones: .*fcn_hr48_4xb2-160k_cityscapes-512x1024"):
        find_config("fcn_hr48_512x1024_160k_cityscapes")
    broken = tmp_path / "broken.py"
    broken.write_text("model = dict(")
    with pytest.raises(OptionError, match=r"broken\.py: cannot be read as an mmseg config"):
        read_config(broken)
    broken.write_text("model = 3")
    with pytest.raises(OptionError, match="no 'model' with a 'type'"):
        read_config(broken)
    broken.write_text("model = dict(type='EncoderDekoder')")
    with pytest.raises(OptionError, match="mmseg cannot build its model"):
        build_segmentor(broken, None)


def test_config_without_decode_head_is_refused(tmp_path):
    path = tmp_path / "backbone.py"
    path.write_text("model = dict(type='ResNetV1c', depth=18, num_stages=4, out_indices=(0, 1, 2, 3))")
    with pytest.raises(OptionError, match=r"backbone\.py"):
        build_segmentor(path, None)


@pytest.mark.parametrize(
    ("name", "extra", "resize"),
    [
        ("whole", "", ""),
        ("slide", "test_cfg=dict(mode='slide', crop_size=(32, 48), stride=(24, 32)),", ""),
        ("divisor", "data_preprocessor=dict(size=None, size_divisor=32, test_cfg=dict(size_divisor=64)),", ""),
        ("fixed", "data_preprocessor=dict(pad_val=7, test_cfg=dict(size=(64, 96))),", ""),
        ("bgr", "data_preprocessor=dict(bgr_to_rgb=False),", ""),
        ("corners", "", ""),
        ("resized", "", "dict(type='Resize', scale=(160, 96), keep_ratio=True),"),
    ],
)
def test_predictions_equal_those_of_mmseg(tmp_path, name, extra, resize):
    head = "align_corners=True," if name == "corners" else ""
    config, checkpoint = write_tiny(tmp_path, name, extra, resize, head)
    images = [picture(seed=i) for i in range(3)]
    predicted = build_segmentor(config, checkpoint, test_resize=bool(resize)).predict(as_images(*images))
    reference = mmseg_prediction(config, checkpoint, images)
    assert predicted.shape == (3, 48, 80)
    assert predicted.dtype == torch.int64
    assert len(predicted.unique()) >= 2
    assert torch.equal(predicted, reference)


def test_cascade_of_heads(tmp_path):
    config = tmp_path / "ocrnet.py"
    config.write_text(
        f'_base_ = ["{find_config("ocrnet_hr18s_4xb2-160k_cityscapes-512x1024")}"]\n'
        'test_pipeline = [dict(type="LoadImageFromFile"), dict(type="PackSegInputs")]\n'
    )
    torch.manual_seed(6)
    network = build_segmentor(config, None).network
    checkpoint = str(tmp_path / "ocrnet.pth")
    torch.save(
        {"state_dict": network.state_dict(), "meta": {"dataset_meta": {"classes": CITYSCAPES.names}}}, checkpoint
    )
    segmentor = build_segmentor(config, checkpoint)
    assert segmentor.num_classes == 19
    images = [picture(64, 96)]
    assert torch.equal(segmentor.predict(as_images(*images)), mmseg_prediction(str(config), checkpoint, images))


def test_floats_are_rounded_as_in_files(tiny):
    segmentor = build_segmentor(*tiny)
    exact = as_images(picture())
    floats = exact / 255 + 0.4 / 255 * torch.rand(exact.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(segmentor.predict(floats), segmentor.predict(exact))
    assert torch.equal(segmentor.predict(floats, quantise=False), segmentor.logits(floats).argmax(1))
    assert torch.equal(segmentor.predict(floats * 3 - 1), segmentor.predict((floats * 3 - 1).clamp(0, 1)))


def test_bfloat16_changes_few_pixels(tiny):
    images = as_images(picture(), picture(seed=1))
    exact = build_segmentor(*tiny).predict(images)
    fast = build_segmentor(*tiny, amp=True)
    assert fast.logits(images / 255).dtype == torch.float32
    assert (fast.predict(images) == exact).float().mean() > 0.95


def test_gradient_reaches_the_images_and_nothing_else(tiny):
    segmentor = build_segmentor(*tiny)
    images = (as_images(picture(32, 32)) / 255).requires_grad_()
    logits = segmentor.logits(images)
    assert logits.shape == (1, 5, 32, 32)
    torch.nn.functional.cross_entropy(logits, torch.zeros(1, 32, 32, dtype=torch.int64)).backward()
    assert images.grad.abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in segmentor.parameters())


def test_gradient_is_that_of_finite_differences(tiny):
    segmentor = build_segmentor(*tiny, channels_last=False).double()
    segmentor.network.decode_head.conv_seg._forward_hooks.clear()  # they return float32
    segmentor.preprocessor.double()
    levels = (as_images(picture(32, 32)) / 255).double().requires_grad_()

    def score(images: torch.Tensor) -> torch.Tensor:
        inputs, _ = segmentor.preprocessor(images * 255)
        return segmentor.network.encode_decode(inputs, [{"img_shape": (32, 32), "pad_shape": (32, 32)}]).sin().sum()

    (gradient,) = torch.autograd.grad(score(levels), levels)
    direction = torch.randn(levels.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    step = 1e-7
    with torch.no_grad():
        slope = (score(levels + step * direction) - score(levels - step * direction)) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-4)


def test_stays_in_eval_mode_inside_a_model_that_trains(tiny):
    segmentor = build_segmentor(*tiny)
    around = torch.nn.Sequential(segmentor)
    around.train()
    assert not any(module.training for module in segmentor.modules())


def test_building_and_predicting_leave_the_random_generators_alone(tiny):
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    build_segmentor(*tiny).predict(as_images(picture()))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()


@pytest.mark.parametrize("images", [torch.rand(3, 8, 8), torch.rand(1, 1, 8, 8), torch.zeros(1, 3, 8, 8).long()])
def test_what_is_no_image_is_refused(tiny, images):
    with pytest.raises(ShapeError, match="expected"):
        build_segmentor(*tiny).predict(images)


def test_no_synchronised_norm_is_left(tiny):
    segmentor = build_segmentor(*tiny)
    assert not any(isinstance(module, torch.nn.SyncBatchNorm) for module in segmentor.modules())


def camvid_scores(shared, keys) -> dict[str, float]:
    segmentor = build_segmentor("fcn_hr18s_camvid11", shared / "weights/hrnet18s_camvid11.pth")
    matrix = ConfusionMatrix(11, CAMVID.ignore)
    for key in keys:
        image = as_images(rgb(shared / f"data/camvid/test/images/{key}.png"))
        label = cv2.imread(str(shared / f"data/camvid/test/labels/{key}.png"), cv2.IMREAD_UNCHANGED)
        matrix.update(segmentor.predict(image), torch.from_numpy(label)[None])
    scores = matrix.scores(CAMVID.names)
    return {"mIoU": scores.miou, "aAcc": scores.aacc, **scores.iou}


def test_real_frames_equal_mmseg_pixel_by_pixel(shared):
    images = [rgb(shared / f"data/camvid/test/images/{key}.png") for key in SUBSET]
    checkpoint = str(shared / "weights/hrnet18s_camvid11.pth")
    predicted = build_segmentor("fcn_hr18s_camvid11", checkpoint).predict(as_images(*images))
    reference = mmseg_prediction("fcn_hr18s_camvid11", checkpoint, images)
    assert (predicted != reference).sum() <= 3  # of 518400: ties decided by the rounding of another memory layout


def test_real_checkpoint_reproduces_its_published_figures(shared):
    keys = sorted(path.stem for path in (shared / "data/camvid/test/images").glob("*.png"))
    scores = camvid_scores(shared, keys)
    assert len(keys) == 59
    assert scores["mIoU"] == pytest.approx(52.64, abs=0.01)
    assert scores["aAcc"] == pytest.approx(82.80, abs=0.01)
    published = (88.3, 65.3, 22.6, 89.2, 65.2, 66.9, 21.4, 15.5, 74.5, 28.9, 41.1)
    assert [round(scores[name], 1) for name in CAMVID.names] == list(published)


@pytest.mark.parametrize(
    ("config", "name"), [("fcn_lite2_camvid11", "tf_efficientnet_lite2"), ("fcn_vgg16_camvid11", "vgg16")]
)
def test_small_judges_have_the_classes_of_camvid_and_the_trunks_of_timm(config, name):
    timm = pytest.importorskip("timm")
    segmentor = build_segmentor(config, None)
    assert (segmentor.num_classes, segmentor.label_values[11]) == (11, 255)
    assert segmentor.predict(torch.rand(1, 3, 72, 96)).shape == (1, 72, 96)
    trunk = {key for key in segmentor.network.state_dict() if key.startswith("backbone.timm_model.")}
    whole = timm.create_model(name, features_only=True).state_dict()
    assert {key.removeprefix("backbone.timm_model.") for key in trunk} == set(whole)
