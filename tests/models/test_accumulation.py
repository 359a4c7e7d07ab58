"""A step of four mini-batches against one of a single batch four times the size."""

from __future__ import annotations

import pytest
import torch
from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY
from torch import nn

import d2sm_plugin  # noqa: F401
from d2sm_plugin.losses import D2SMLoss
from d2sm_plugin.losses.accumulation import accumulation_of
from d2sm_plugin.models.d2sm_model import D2SMModel
from d2sm_plugin.options.reader import validate_options
from d2sm_plugin.registry import register

PARTS, BATCH = 4, 3
PATCHES = {"type": "PatchSampler", "size": 8, "stride": 4}


@register(ARCH_REGISTRY)
class OneLayer(nn.Module):
    """A generator without anything random."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, lq):
        return lq + 0.1 * self.body(lq).tanh()


class Positions(nn.Module):
    """Features of whole images that no value of theirs leaves out."""

    def __init__(self, seed: int = 3) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 6, 3, stride=2)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.4

    def forward(self, images):
        return nn.functional.softplus(self.layer(images)).mean((2, 3))


def model_of(**objectives) -> D2SMModel:
    raw = {
        "name": "x",
        "num_gpu": 0,
        "datasets": {"train": {"type": "NoisyImageDataset", "dataroot_gt": "images", "sigma": 25}},
        "network_g": {"type": "OneLayer"},
        "train": {"total_iter": 9, "optim_g": {"type": "SGD", "lr": 1e-3}, **objectives},
    }
    torch.manual_seed(0)
    return D2SMModel(validate_options(raw) | {"dist": False, "rank": 0, "world_size": 1})


def d2sm_model(**arguments) -> D2SMModel:
    """A model whose only objective is D2SM on a network of our own."""
    model = model_of(pixel_opt={"type": "L1Loss"})
    del model.objectives.terms["pixel"]
    model.objectives.terms["d2sm"], model.objectives.takes["d2sm"] = (
        D2SMLoss(Positions(), **arguments),
        ("restored", "gt"),
    )
    return model


def images(count=PARTS * BATCH, seed=1):
    generator = torch.Generator().manual_seed(seed)
    gt = torch.rand(count, 3, 16, 16, generator=generator)
    return {"lq": (gt + 0.1 * torch.randn(gt.shape, generator=generator)).clamp(0, 1), "gt": gt}


def parts_of(batch):
    lq, gt = (batch[name].chunk(PARTS) for name in ("lq", "gt"))
    return [{"lq": left, "gt": right} for left, right in zip(lq, gt, strict=True)]


def gradient(model, batches, step=2):
    """The network's gradient, and the logged losses, of a step."""
    assert model.train_step(batches, step)
    return torch.cat([p.grad.flatten() for p in model.net_g.parameters()]), model.get_current_log()


def compare(make, rtol):
    together, log = gradient(make(), [images()])
    apart, parts_log = gradient(make(), parts_of(images()))
    assert ((apart - together).norm() / together.norm()).item() < rtol
    assert parts_log == pytest.approx(log, rel=rtol)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", ["L1Loss", "MSELoss", "CharbonnierLoss"])
def test_pixel_objectives_are_equal(kind, reduction):
    compare(lambda: model_of(pixel_opt={"type": kind, "reduction": reduction}), 1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_d2sm_within_images_is_equal(reduction):
    compare(lambda: d2sm_model(patches={**PATCHES, "scope": "image"}, reduction=reduction), 1e-4)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_d2sm_within_mini_batches_is_that_of_each_averaged_or_summed(reduction):
    """Statistics of a joint batch are not those of its parts; the scale is as said."""
    apart, log = gradient(d2sm_model(patches=PATCHES, reduction=reduction), parts_of(images()))
    singles = [gradient(d2sm_model(patches=PATCHES, reduction=reduction), [part]) for part in parts_of(images())]
    share = 1 if reduction == "sum" else 1 / PARTS
    torch.testing.assert_close(apart, share * sum(of_part for of_part, _ in singles), rtol=1e-4, atol=1e-7)
    assert log["l_d2sm"] == pytest.approx(share * sum(values["l_d2sm"] for _, values in singles), rel=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("size", [PARTS * BATCH, 60])
def test_a_queue_holds_the_same_samples_and_gives_the_same_loss(reduction, size):
    """After each step: the same rows in the same order, with the same sums; and the loss is that of all of them."""
    queue = {"type": "QueueSampler", "size": size}
    together, apart = (d2sm_model(queue=queue, reduction=reduction) for _ in range(2))
    for step in range(2, 10):  # the larger queue is full at the sixth step
        batch = images(seed=step)
        _, log = gradient(together, [batch], step)
        _, parts_log = gradient(apart, parts_of(batch), step)
        apart.net_g.load_state_dict(together.net_g.state_dict())
        left, right = (model.objectives.terms["d2sm"].queue for model in (together, apart))
        assert int(left.pointer) == int(right.pointer) and len(left) == len(right) == min(size, (step - 1) * 12)
        for name, rtol in (("restored", 1e-4), ("clear", 1e-4), ("sums", 1e-2)):
            torch.testing.assert_close(getattr(left, name), getattr(right, name), rtol=rtol, atol=1e-4)
        assert parts_log["l_d2sm"] == pytest.approx(log["l_d2sm"], rel=1e-3)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_with_a_queue_each_gradient_is_a_part_of_the_joint_one(reduction):
    """The last mini-batch meets what the joint batch meets: its gradient is equal. The others meet samples that the
    joint batch has pushed out already, instead of mini-batches still to come: theirs is nearly so, and never a share.
    """
    batch = images()

    def gradients(*chunks):
        loss = D2SMLoss(Positions(), queue={"type": "QueueSampler", "size": 60}, reduction=reduction)
        for seed in range(10, 16):
            loss(images(seed=seed)["lq"].requires_grad_(), images(seed=seed)["gt"])
        collected = []
        for lq, gt in chunks:
            lq = lq.clone().requires_grad_()
            loss(lq, gt).backward()
            collected.append(lq.grad)
        return torch.cat(collected)

    together = gradients((batch["lq"], batch["gt"]))
    apart = gradients(*((part["lq"], part["gt"]) for part in parts_of(batch)))
    torch.testing.assert_close(apart[-BATCH:], together[-BATCH:], rtol=1e-3, atol=1e-9)
    assert torch.nn.functional.cosine_similarity(apart.flatten(), together.flatten(), 0) > 0.98
    assert (apart.norm() / together.norm()).item() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("queue", [None, {"type": "QueueSampler", "size": 240}], ids=["batch", "queue"])
def test_the_balance_of_objectives_stays(queue, reduction):
    """The share of D2SM in the gradient, as it is logged: not a fourth, not fourfold."""

    def ratio(batches):
        model = d2sm_model(queue=queue, patches=PATCHES, reduction=reduction)
        model.objectives.terms["pixel"] = LOSS_REGISTRY.get("L1Loss")()
        model.objectives.takes["pixel"] = ("restored", "gt")
        for _ in range(3):  # the queue is full at the third
            ratio = gradient(model, batches, step=1)[1]["grad_ratio/d2sm"]
        return ratio

    assert ratio(parts_of(images())) / ratio([images()]) == pytest.approx(1, rel=0.3)


def test_who_says_nothing_goes_by_its_reduction():
    class Silent(nn.Module):
        def __init__(self, reduction=None):
            super().__init__()
            if reduction:
                self.reduction = reduction

    assert [accumulation_of(Silent(r)) for r in (None, "mean", "sum")] == ["mean", "mean", "sum"]
    stepwise = LOSS_REGISTRY.get("StepwiseLoss")({"type": "L1Loss", "reduction": "sum"})
    assert accumulation_of(stepwise) == "sum"
    assert accumulation_of(LOSS_REGISTRY.get("StepwiseLoss")({"type": "L1Loss"})) == "mean"
    broken = Silent()
    broken.accumulation = "summ"
    with pytest.raises(ValueError, match=r"Silent\.accumulation: 'summ' is unknown; did you mean 'sum'"):
        accumulation_of(broken)
