"""What only a GPU can show: equal results, and steps that do not wait for the device."""

from __future__ import annotations

from functools import partialmethod

import pytest
import torch
from sampler_kinds import EXTRACTOR, SAMPLERS
from torch import nn

import d2sm_plugin  # noqa: F401
from d2sm_plugin.losses import D2SMLoss, QueueSampler
from d2sm_plugin.models.d2sm_model import D2SMModel
from d2sm_plugin.options.reader import validate_options

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(autouse=True)
def exact_products():
    """Float32 products and convolutions as the CPU computes them, without the matrix units' rounding."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def loss_of(sampler: str, device: str, **more) -> nn.Module:
    torch.manual_seed(0)
    options = {"extractor": EXTRACTOR, **SAMPLERS[sampler](), **more}
    return D2SMLoss(**options, queue=QueueSampler(24)).to(device)


def images(number: int, device: str):
    generator = torch.Generator().manual_seed(number)
    clear = torch.rand(2, 3, 128, 128, generator=generator)
    noisy = clear + 0.1 * torch.randn(clear.shape, generator=generator)
    return noisy.to(device).requires_grad_(), clear.to(device)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_value_and_gradient_are_those_of_the_cpu(sampler):
    collected = {}
    for device in ("cpu", "cuda"):
        loss = loss_of(sampler, device)
        for step in range(4):  # the queue fills, then older samples leave it
            restored, clear = images(step, device)
            value = loss(restored, clear)
            (gradient,) = torch.autograd.grad(value, restored)
        collected[device] = value.item(), gradient.cpu().double().flatten()
    assert collected["cuda"][0] == pytest.approx(collected["cpu"][0], rel=1e-3)
    assert torch.cosine_similarity(collected["cuda"][1], collected["cpu"][1], 0) > 0.9999


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_loss_never_waits_for_the_device(sampler):
    loss = loss_of(sampler, "cuda")
    pairs = [images(step, "cuda") for step in range(4)]
    for pair in pairs[:2]:  # first calls check their input, which waits
        loss(*pair).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for pair in pairs[2:]:
            loss(*pair).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("train", [{}, {"amp": "bf16", "channels_last": True}, {"amp": "fp16"}])
def test_a_step_waits_once_to_know_whether_the_loss_is_finite(train):
    model = model_of(**train)
    batches = [batch(step) for step in range(4)]
    for number, step_batch in enumerate(batches[:2], start=1):
        assert model.train_step([step_batch], number)
    torch.cuda.synchronize()
    waits = []
    with pytest.MonkeyPatch.context() as patch:
        for reading in ("item", "tolist"):
            patch.setattr(torch.Tensor, reading, partialmethod(allowed, getattr(torch.Tensor, reading), waits))
        torch.cuda.set_sync_debug_mode("error")
        try:
            for number, step_batch in enumerate(batches[2:], start=3):
                assert model.train_step([step_batch], number)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    per_step = len(waits) / 2
    assert per_step == (2 if train.get("amp") == "fp16" else 1)  # the scaler of fp16 asks for its own flag


def allowed(tensor, reading, waits):
    """What is read of a tensor; those on the GPU are counted, as the host waits for them."""
    if not tensor.is_cuda:
        return reading(tensor)
    waits.append(tensor)
    torch.cuda.set_sync_debug_mode("default")
    value = reading(tensor)
    torch.cuda.set_sync_debug_mode("error")
    return value


def test_half_precision_trains_as_float32_does():
    ends = {}
    for amp in (None, "bf16"):
        model = model_of(amp=amp, channels_last=True)
        for step in range(1, 31):
            model.train_step([batch(step)], step)
        ends[amp] = model.get_current_log()["l_pixel"]
    assert ends["bf16"] == pytest.approx(ends[None], rel=0.05)


def model_of(**train) -> D2SMModel:
    torch.manual_seed(0)
    raw = {
        "name": "x",
        "num_gpu": 1,
        "datasets": {"train": {"type": "NoisyImageDataset", "dataroot_gt": "images", "sigma": 25}},
        "network_g": {"type": "FFDNet", "num_feat": 32, "num_layers": 4},
        "train": {
            "total_iter": 99,
            "optim_g": {"type": "Adam", "lr": 1e-3},
            "pixel_opt": {"type": "L1Loss"},
            "d2sm_opt": {
                "type": "D2SMLoss",
                "loss_weight": 1e-3,
                "extractor": EXTRACTOR,
                "patches": {"type": "PatchSampler", "size": 64, "stride": 32, "mode": "shared"},
                "queue": {"type": "QueueSampler", "size": 64},
            },
            **train,
        },
    }
    return D2SMModel(validate_options(raw) | {"dist": False, "rank": 0, "world_size": 1})


def batch(number: int) -> dict:
    generator = torch.Generator().manual_seed(number)
    gt = torch.rand(2, 3, 96, 96, generator=generator)
    noise = 25 / 255 * torch.randn(gt.shape, generator=generator)
    moved = {"lq": gt + noise, "gt": gt, "sigma": torch.full((2, 1, 1, 1), 25 / 255)}
    return {name: value.pin_memory() for name, value in moved.items()} | {"key": ["a", "b"]}
