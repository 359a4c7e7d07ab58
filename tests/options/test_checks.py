"""Mistakes in option files: each is found before anything starts, and told in one line that begins with its key."""

from __future__ import annotations

import ast
import copy
import inspect
import textwrap

import pytest
import torch
from pydantic import TypeAdapter
from test_reader import RAW, changed

import d2sm_plugin  # noqa: F401
from d2sm_plugin.data.dataset_options import PIPELINE_KEYS
from d2sm_plugin.data.host_datasets import host_dataset_options
from d2sm_plugin.errors import D2SMError, OptionError
from d2sm_plugin.options.reader import validate_options
from d2sm_plugin.options.signatures import option_type, signature_of
from d2sm_plugin.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    DEGRADATION_REGISTRY,
    FEATURE_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
)

TIMM = {"type": "TimmFeatures", "weights": None}
PAIRED = {"type": "PairedImageDataset", "dataroot_gt": "a", "dataroot_lq": "b", "io_backend": {"type": "disk"}}


def d2sm(**block) -> dict:
    return {"type": "D2SMLoss", "extractor": TIMM, **block}


def patches(**block) -> dict:
    return d2sm(patches={"type": "PatchSampler", **block})


def degraded(*blocks) -> dict:
    return {"type": "NoisyImageDataset", "dataroot_gt": "images", "degradations": list(blocks)}


def refusal(raw, is_train=True) -> str:
    with pytest.raises(D2SMError) as error:
        validate_options(raw, is_train)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        # values of the wrong type
        ("network_g.num_feat", "8", "network_g.num_feat: expected an integer, got '8'"),
        ("network_g.num_feat", "wide", "network_g.num_feat: expected an integer, got 'wide'"),
        ("network_g.num_feat", 8.0, "network_g.num_feat: expected an integer, got 8.0"),
        ("network_g.num_layers", True, "network_g.num_layers: expected an integer, got True"),
        ("network_g.num_layers", 0, "network_g.num_layers: expected a number of at least 1, got 0"),
        ("network_g.num_layers", 1, "network_g: FFDNet: num_layers is 1"),
        ("network_g.num_layers", 10**8, "network_g: more than 10,000 tensors and layers; lower the number of layers"),
        ("network_g.type", ["X"], "network_g.type: expected a name, got ['X']; known: "),
        ("network_g", {"type": "RRDBNet", "num_in_ch": "3", "num_out_ch": 3}, "network_g.num_in_ch: expected an integ"),
        ("network_g", {"type": "MSRResNet", "upscale": 5}, "network_g: MSRResNet refuses these values ("),
        ("train.pixel_opt.loss_weight", "1,5", "train.pixel_opt.loss_weight: expected a number, got '1,5'"),
        ("train.pixel_opt.loss_weight", -1, "train.pixel_opt.loss_weight: expected a number of at least 0, got -1"),
        ("train.pixel_opt.loss_weight", float("nan"), "train.pixel_opt.loss_weight: expected a finite number, got nan"),
        ("train.pixel_opt.loss_weight", True, "train.pixel_opt.loss_weight: expected a number, got True"),
        ("train.pixel_opt.reduction", "total", "train.pixel_opt.reduction: expected 'mean' or 'sum', got 'total'"),
        ("train.pixel_opt.reduction", "none", "train.pixel_opt.reduction: expected 'mean' or 'sum', got 'none'"),
        ("train.pixel_opt.type", 5, "train.pixel_opt.type: expected a name, got 5"),
        ("train.pixel_opt", {"type": "PerceptualLoss", "layer_weights": {"conv5_4": "1"}},
         "train.pixel_opt.layer_weights.conv5_4: expected a number, got '1'"),
        ("train.pixel_opt", {"type": "PerceptualLoss", "layer_weights": {}, "criterion": "l1"},
         "train.pixel_opt.layer_weights: expected at least 1 values"),
        ("train.total_iter", True, "train.total_iter: expected an integer, got True"),
        ("train.total_iter", "100", "train.total_iter: expected an integer, got '100'"),
        ("train.total_iter", 10.5, "train.total_iter: expected an integer, got 10.5"),
        ("train.grad_clip", float("inf"), "train.grad_clip: expected a finite number, got inf"),
        ("train.accumulate", [1, 2], "train.accumulate: expected an integer, got [1, 2]"),
        ("manual_seed", 20261127123, "manual_seed: expected a number of at most 2147483647, got 20261127123"),
        ("scale", True, "scale: expected an integer, got True"),
        ("num_gpu", "two", "num_gpu: expected an integer or 'auto', got 'two'"),
        ("datasets.val_2.sigma", [25, "x"], "datasets.val_2.sigma: expected a number, got 'x'"),
        ("datasets.val_2.sigma", [], "datasets.val_2.sigma: expected a noise level, or a list of some, got []"),
        ("datasets.val_2.sigma", 300, "datasets.val_2.sigma: expected a number of at most 255, got 300"),
        ("datasets.train.sigma_range", [0, float("inf")], "datasets.train.sigma_range.1: expected "),
        ("datasets.train.num_worker_per_gpu", -1, "datasets.train.num_worker_per_gpu: expected a number of at least 0"),
        ("datasets.train.num_prefetch_queue", "2", "datasets.train.num_prefetch_queue: expected an integer, got '2'"),
        ("datasets.train.gt_sise", 64, "datasets.train.gt_sise: unknown key; did you mean 'gt_size'"),
        ("datasets.val_2", PAIRED | {"dataroot_qt": "c"}, "datasets.val_2.dataroot_qt: unknown key; did you mean 'dat"),
        ("datasets.train", PAIRED, "datasets.train.gt_size: this key is missing; training needs"),
        ("datasets.val_2", PAIRED | {"gt_size": 64}, "datasets.val_2: gt_size: for training only"),
        ("datasets.val_2", PAIRED | {"io_backend": {"type": "disc"}}, "datasets.val_2.io_backend.type: expected 'lmdb"),
        ("datasets.train", {"type": "REDSDataset", "num_frames": 5}, "datasets.train.num_frames: unknown key; did you"),
        ("val.metrics.psnr", {"type": "calculate_psnr", "crop_border": 0, "test_y_chanel": True},
         "val.metrics.psnr.test_y_chanel: calculate_psnr takes no such argument; did you mean 'test_y_channel'"),
        ("val.metrics.psnr", {"type": "calculate_psnr", "crop_border": -1}, "val.metrics.psnr.crop_border: expected a"),
        ("val.metrics.psnr", {"type": "calculate_psnr", "crop_border": 0, "better": "up"},
         "val.metrics.psnr.better: expected 'higher' or 'lower', got 'up'"),
        ("val.metrics.psnr", {"type": "calculate_psnr_pt", "crop_border": 0}, "val.metrics.psnr.type: calculate_psnr_"),
        ("val.segmentation", {"config": "a", "checkpoint": "b", "labels": "c", "amp": "fp16"},
         "val.segmentation.amp: expected true or false or 'bf16', got 'fp16'"),
        ("logger.print_freq", 0, "logger.print_freq: expected a number of at least 1, got 0"),
        # optimisers and schedules
        ("train.optim_g.lr", float("inf"), "train.optim_g.lr: expected a finite number, got inf"),
        ("train.optim_g.lr", "1e-3", "train.optim_g.lr: expected a number, got '1e-3'"),
        ("train.optim_g.lr", -1, "train.optim_g: AdamW refuses these values: Invalid learning rate: -1"),
        ("train.optim_g.betas", [0.9], "train.optim_g.betas: expected at least 2 values, got [0.9]"),
        ("train.optim_g", {"type": "LBFGS"}, "train.optim_g.type: LBFGS cannot train a network here ("),
        ("train.optim_g", {"type": "SparseAdam"}, "train.optim_g.type: SparseAdam cannot train a network here ("),
        ("train.optim_g.type", None, "train.optim_g.type: expected a name, got None"),
        ("train.scheduler", {"type": "CosineAnnealingRestartLR", "periods": [4]},
         "train.scheduler: CosineAnnealingRestartLR ends before train.total_iter 10, at step 6 ("),
        ("train.scheduler", {"type": "OneCycleLR", "max_lr": 1e-3, "total_steps": 8},
         "train.scheduler: OneCycleLR ends before train.total_iter 10, at step 10 ("),
        ("train.scheduler", {"type": "CosineAnnealingRestartLR", "periods": [5, 5]},
         "train.scheduler: CosineAnnealingRestartLR refuses these values: periods and restart_weights"),
        ("train.scheduler", {"type": "CosineAnnealingRestartLR", "periods": [0, 10], "restart_weights": [1, 1]},
         "train.scheduler.periods.0: expected a number of at least 1"),
        ("train.scheduler", {"type": "CosineAnnealingLR", "T_max": 8},
         "train.scheduler.T_max: after 8 steps the learning rate rises again, and train.total_iter is 10; make it"),
        ("train.scheduler", {"type": "StepLR", "step_size": 1, "last_epoch": 3},
         "train.scheduler: StepLR refuses these values: \"param 'initial_lr' is not specified"),
        ("train.scheduler", {"type": "ExponentialLR", "gamma": -1.5}, "train.scheduler: ExponentialLR makes the learn"),
        ("train.scheduler", {"type": "PolynomialLR", "total_iters": 4},
         "train.scheduler: PolynomialLR makes the learning rate 0 from step 5 on, and train.total_iter is 10"),
        ("train.scheduler", {"type": "MultiStepLR", "milestones": [3], "gamma": 0},
         "train.scheduler: MultiStepLR makes the learning rate 0 from step 4 on"),
        ("train.optim_g.lr", 0, "train.optim_g.lr: with 0 nothing is trained"),
        ("train.scheduler", {"type": "LambdaLR", "lr_lambda": "x"}, "train.scheduler.type: no scheduler 'LambdaLR'"),
        # collaborators
        ("train.d2sm_opt", d2sm(extractor={"type": "TimmFeatures", "modle": "x"}),
         "train.d2sm_opt.extractor.modle: TimmFeatures takes no such argument; did you mean 'model'"),
        ("train.d2sm_opt", d2sm(extractor={"type": "TimmFeatures", "model": "tf_efficientnet_lit0"}),
         "train.d2sm_opt.extractor.model: timm knows no 'tf_efficientnet_lit0'; did you mean one of tf_efficientnet_l"),
        ("train.d2sm_opt", d2sm(extractor={"type": "VGG19Features", "layer": "fc8"}),
         "train.d2sm_opt.extractor.layer: no value 'fc8'; did you mean 'fc7'"),
        ("train.d2sm_opt", d2sm(extractor={"weights": None}), "train.d2sm_opt.extractor: the key 'type' is missing; k"),
        ("train.d2sm_opt", d2sm(queue={"type": "QueueSampler", "size": 8, "dtyp": "x"}),
         "train.d2sm_opt.queue.dtyp: QueueSampler takes no such argument; did you mean 'dtype'"),
        ("train.d2sm_opt", d2sm(queue={"type": "PatchSampler"}),
         "train.d2sm_opt.queue.type: 'PatchSampler' is no QueueSampler; known: QueueSampler"),
        ("train.d2sm_opt", d2sm(patches={"type": "PatchSamplr"}),
         "train.d2sm_opt.patches.type: no loss is registered as 'PatchSamplr'; did you mean 'PatchSampler'"),
        ("train.d2sm_opt", d2sm(divergence="lk"), "train.d2sm_opt: divergence: 'lk' is unknown; known: js, js_mi"),
        ("train.d2sm_opt", patches(size=32, stride=7, mode="shared"), "train.d2sm_opt.patches: PatchSampler.shared_st"),
        ("train.d2sm_opt", patches(size=32, scope="image") | {"queue": {"type": "QueueSampler", "size": 8}},
         "train.d2sm_opt: D2SMLoss: patches with scope 'image'"),
        ("train.d2sm_opt", {"type": "StepwiseLoss", "criterion": {"type": "L1Loss", "weight": 1}},
         "train.d2sm_opt.criterion.weight: L1Loss takes no such argument"),
        ("train.d2sm_opt", {"type": "AsymmetricNoiseLoss", "alpha": 0.7}, "train.d2sm_opt: AsymmetricNoiseLoss: alpha"),
        ("train.pixel_opt.takes", "gt", "train.pixel_opt.takes: expected a list, got 'gt'"),
        ("train.pixel_opt.takes", ["restored"], "train.pixel_opt.takes: L1Loss cannot be called with 1 ("),
        # degradations
        ("datasets.train.degradations", [{"type": "JPEG"}], "datasets.train.sigma_range: with degradations, noise is"),
        ("datasets.val_2", degraded({"type": "JPEG", "quality": "high"}),
         "datasets.val_2.degradations.0.quality: expected an integer or a list, got 'high'"),
        ("datasets.val_2", degraded({"type": "JPEG", "quality": 101}),
         "datasets.val_2.degradations.0: JPEG.quality: expected a number from 1 to 100, or [lowest, highest] of such"),
        ("datasets.val_2", degraded({"type": "Blur", "sigm": 1}),
         "datasets.val_2.degradations.0.sigm: Blur takes no such argument; did you mean 'sigma'"),
        ("datasets.val_2", degraded({"type": "Blur"}, {"typ": "JPEG"}),
         "datasets.val_2.degradations.1: the key 'type' is missing; known: Blur, "),
        ("datasets.val_2", degraded({"type": "JPEG", "probability": "often"}),
         "datasets.val_2.degradations.0.probability: expected a number from 0 to 1, got 'often'"),
        ("datasets.val_2", degraded({"type": "Shuffled", "steps": [{"type": "Blur", "kind": {"round": 1}}]}),
         "datasets.val_2.degradations.0: Shuffled.steps.0: Blur.kind: 'round' is unknown; known: anisotropic"),
        ("datasets.val_2", degraded({"type": "OneOf", "steps": {"type": "JPEG"}}),
         "datasets.val_2.degradations.0: OneOf.steps: expected a list of degradations, got {'type': 'JPEG'}"),
        ("datasets.val_2", degraded({"type": "OneOf"}), "datasets.val_2.degradations.0: OneOf needs steps"),
        # names
        ("name", ".", "name: expected a name for a file or folder"),
        ("name", "..", "name: expected a name for a file or folder"),
        ("name", "a\nb", "name: expected a name for a file or folder, which '\\n' cannot be part of"),
        ("name", "x" * 151, "name: expected a name of at most 150 bytes, got 151"),
        ("name", 7, "name: expected a text, got 7"),
        ("datasets.val_2.name", "../../x", "datasets.val_2.name: expected a name for a file or folder, which '/'"),
        ("val.suffix", "/x", "val.suffix: expected a name for a file or folder, which '/'"),
        ("val.metrics", {"a/b": {"type": "calculate_psnr", "crop_border": 0}}, "val.metrics.a/b: expected a name for"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_used(path, value, message):
    assert refusal(changed(path, value)).startswith(message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val.save_best": "psrn"}, "val.save_best: no figure 'psrn' is measured; did you mean 'psnr'"),
        ({"val.save_best": "psnr_input"}, "val.save_best: no figure 'psnr_input' is measured; known: psnr"),
        ({"val.save_best": "mIoU"}, "val.save_best: no figure 'mIoU' is measured"),
        ({"val.save_best": "psnr", "datasets.val_2": ...}, "val.save_best: there is no dataset 'val'"),
        ({"val.measure_input": True, "val.metrics.psnr_input": {"type": "calculate_ssim", "crop_border": 0}},
         "val.metrics.psnr_input: another figure has that name already"),
        ({"datasets.val": RAW["datasets"]["val_2"] | {"name": "val_2"}}, "datasets.val: datasets.val_2 has a set 'val"),
        ({"datasets.val_2.sigma": [25, 25.0]}, "datasets.val_2: datasets.val_2 has a set 'val_2_sigma25' too"),
        ({"datasets.val_2.sigma": [25], "datasets.val": RAW["datasets"]["val_2"] | {"name": "val_2_sigma25"}},
         "datasets.val: datasets.val_2 has a set 'val_2_sigma25' too"),
        ({"train.d2sm_opt": d2sm(), "datasets.train.batch_size_per_gpu": 2}, "train.d2sm_opt: a batch has 2 samples,"),
        ({"train.d2sm_opt": d2sm(queue={"type": "QueueSampler", "size": 2})}, "train.d2sm_opt.queue: QueueSampler.siz"),
        ({"train.d2sm_opt": patches(size=48, stride=16, scope="image", max_patches=2)}, "train.d2sm_opt.patches: Pat"),
        ({"train.d2sm_opt": patches(size=64, max_patches=1), "datasets.train.batch_size_per_gpu": 2},
         "train.d2sm_opt: a batch has 2 samples"),
        ({"train.d2sm_opt": patches(size=96)}, "train.d2sm_opt.patches: PatchSampler.size: windows of 96x96 do not fi"),
        ({"train.ssim_opt": {"type": "MSSSIMLoss"}}, "train.ssim_opt: MSSSIMLoss needs images of at least 161 pixels,"),
        ({"datasets.train_2": RAW["datasets"]["train"] | {"gt_size": 32}}, "datasets.train_2.gt_size: 32, but that of"),
        ({"datasets.val_2.ratio": 2}, "datasets.val_2.ratio: for training sets only"),
        ({"scale": 3}, "datasets.train.gt_size: 64 is no multiple of scale 3"),
        ({"scale": 2}, "scale: 2, but network_g makes 32x32 of 32x32"),
        ({"scale": 2, "val.measure_input": True}, "val.measure_input: with scale 2 input and clean image differ in si"),
        ({"val.tile": 64, "val.tile_overlap": 40}, "val.tile: tile 64 is not larger than twice the overlap 40"),
        ({"network_d": {"type": "DICDiscriminator"}}, "network_d: D2SMModel has no such network; set model_type: GANM"),
        ({"train.gan_opt": {"type": "GANLoss", "gan_type": "vanilla"}}, "train.gan_opt: D2SMModel has no discriminato"),
        ({"train.gan_opt": {"type": "GANLoss", "gan_type": "vanila"}}, "train.gan_opt.gan_type: expected 'vanilla', '"),
        ({"model_type": "GANModel"}, "train.gan_opt: this block is missing"),
        ({"model_type": "DICModel", "train.frozen": {"nose": 5}}, "train.frozen: FFDNet has no part 'nose'; known: mo"),
        ({"model_type": "ESRGANModel"}, "model_type: ESRGANModel is not made for this pipeline; did you mean 'GANMode"),
        ({"train.frozen": {"nose": 5}}, "train.frozen: unknown key"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(changes, message):
    raw = changed("val.metrics", {"psnr": {"type": "calculate_psnr", "crop_border": 0}})
    for path, value in changes.items():
        raw = changed(path, value, raw)
    assert refusal(raw).startswith(message)


@pytest.mark.parametrize("name", ["half", "forward", "_modules", "a.b"])
def test_names_that_torch_uses_are_none_for_objectives(name):
    raw = changed("val.metrics", {})
    raw["train"][f"{name}_opt"] = {"type": "L1Loss"}
    assert refusal(raw).startswith(f"train.{name}_opt: no objective can be called '{name}'")


@pytest.mark.parametrize("crop", [10**7, 2**62])
def test_no_memory_is_taken_for_a_trial(crop):
    validate_options(changed("datasets.train.gt_size", crop))


def test_a_cosine_as_long_as_the_training():
    for steps in (9, 10, 20):
        validate_options(changed("train.scheduler", {"type": "CosineAnnealingLR", "T_max": steps}))


def test_checks_leave_the_random_generators_alone():
    before = torch.random.get_rng_state()
    validate_options(changed("train.d2sm_opt", patches(size=32)))
    validate_options(changed("network_g", {"type": "SwinIR", "upscale": 1, "embed_dim": 12, "window_size": 8}))
    assert torch.equal(before, torch.random.get_rng_state())


def test_what_is_right_passes():
    raw = copy.deepcopy(RAW)
    raw["val"] = {
        "val_freq": 5e3, "measure_input": True, "save_best": "psnr_input", "tile": 64,
        "metrics": {
            "psnr": {"type": "calculate_psnr", "crop_border": 0, "test_y_channel": True},
            "niqe": {"type": "calculate_niqe", "crop_border": 0, "better": "lower"},
        },
    }  # fmt: skip
    raw["train"] |= {
        "d2sm_opt": patches(size=32, stride=16) | {"queue": {"type": "QueueSampler", "size": 64}, "loss_weight": 0},
        "image_opt": patches(size=32, stride=16, scope="image"),
        "positions_opt": d2sm(patches={"type": "SpatialSampler", "max_positions": 64}),
        "steps_opt": {"type": "StepwiseLoss", "criterion": {"type": "L1Loss"}, "takes": ["steps", "gt"]},
        "scheduler": {"type": "CosineAnnealingRestartLR", "periods": [9]},
        "warmup_iter": 3,
    }
    raw["datasets"]["val_2"] = degraded(
        {
            "type": "Shuffled",
            "steps": [{"type": "Blur", "kind": {"isotropic": 1}}, {"type": "JPEG", "probability": 0.5}],
        },
        {"type": "SecondOrder"},
    )
    options = validate_options(raw)
    assert options["val"]["val_freq"] == 5000
    assert validate_options(changed("scale", 4, changed("network_g", {"type": "MSRResNet", "upscale": 4})))


@pytest.mark.parametrize(
    "registry", [ARCH_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, FEATURE_REGISTRY, DEGRADATION_REGISTRY]
)
def test_every_argument_of_every_class_that_may_be_named_has_a_type_that_takes_its_default(registry):
    for name, target in registry:
        if not target.__module__.startswith(("d2sm_plugin.", "basicsr.")):
            continue
        signature = signature_of(target, ("img", "img2"))
        assert not signature.open, name
        for argument in signature.arguments.values():
            default = list(argument.default) if isinstance(argument.default, tuple) else argument.default
            if not argument.required and not inspect.isclass(default):
                argument.adapter.validate_python(default)


@pytest.mark.parametrize("name", [name for name, cls in DATASET_REGISTRY if cls.__module__.startswith("basicsr.")])
def test_keys_of_the_hosts_datasets_are_those_that_its_code_reads(name):
    cls = DATASET_REGISTRY.get(name)
    read = set()
    for part in (base for base in cls.__mro__ if base.__module__.startswith("basicsr.")):
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(part)))):
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("opt", "self.opt"):
                read.add(ast.literal_eval(node.slice))
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "opt.get":
                read.add(ast.literal_eval(node.args[0]))
    known = set(host_dataset_options(cls).model_fields) | PIPELINE_KEYS
    assert read <= known
    assert known - PIPELINE_KEYS - {"phase"} <= read | {"num_frame", "padding", "dataroot_flow"}


@pytest.mark.parametrize(
    ("hint", "right", "wrong"),
    [
        (int, [1, -1], [True, 1.0, "1", None]),
        (float, [1, 1.5], [True, "1", float("nan"), float("inf"), None]),
        (float | None, [1, None], ["~"]),
        (tuple[int, int], [[1, 2]], [[1], [1, 2, 3], [1, "2"], 1]),
        (tuple[float, ...], [[], [1, 2.5]], [["x"], 1]),
        (torch.Tensor | float, [1.0], ["x"]),
        (dict[str, int], [{"a": 1}], [{"a": "1"}, {1: 1}, [1]]),
        (torch.nn.Module, [1, "x", None], []),
        (list, [[1, "x"]], ["x", {}]),
    ],
)
def test_annotations_become_types_of_values(hint, right, wrong):
    adapter = TypeAdapter(option_type(hint), config={"strict": True, "allow_inf_nan": False})
    for value in right:
        adapter.validate_python(value)
    for value in wrong:
        with pytest.raises(ValueError, match=""):
            adapter.validate_python(value)


def test_a_class_without_annotations_may_take_what_it_likes():
    class Own:
        def __init__(self, layers=4, loss_weight=1.0, **rest):
            pass

    signature = signature_of(Own)
    assert signature.open
    signature.arguments["layers"].adapter.validate_python("auto")
    with pytest.raises(ValueError, match="greater than or equal"):
        signature.arguments["loss_weight"].adapter.validate_python(-1)
    with pytest.raises(OptionError, match=r"no arch is registered as 'Own'"):
        validate_options(changed("network_g.type", "Own"))
