from __future__ import annotations

import copy
import io

import pytest
import torch
from basicsr.utils.registry import LOSS_REGISTRY
from d2sm_reference import NaiveQueue, TinyExtractor, dense_divergence, divergence_by_loops
from torch import nn

from d2sm_plugin.errors import OptionError, ShapeError
from d2sm_plugin.losses import D2SMLoss, PatchSampler, QueueSampler, SpatialSampler

QUEUE = {"type": "QueueSampler", "size": 30}
PATCHES = {"type": "PatchSampler", "size": 8, "stride": 4}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def images(batch=3, size=16, dtype=torch.float32):
    clear = torch.rand(batch, 3, size, size, dtype=dtype)
    return (clear + 0.1 * torch.randn_like(clear)).requires_grad_(), clear


def test_names_are_registered():
    for objective in (D2SMLoss, QueueSampler, PatchSampler, SpatialSampler):
        assert LOSS_REGISTRY.get(objective.__name__) is objective


def test_whole_images_equal_the_loops():
    extractor = TinyExtractor().double().eval()
    restored, clear = images(5, dtype=torch.float64)
    for kind in ("kl", "reverse_kl", "js"):
        loss = D2SMLoss(extractor, divergence=kind, loss_weight=2.5)
        actual, expected = loss(restored, clear), 2.5 * divergence_by_loops(extractor(restored), extractor(clear), kind)
        assert actual.item() == pytest.approx(expected.item(), rel=1e-9)
        gradients = [torch.autograd.grad(value, restored)[0] for value in (actual, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-12)


def test_windows_and_queue_equal_the_dense_computation():
    extractor = TinyExtractor().double().eval()
    loss, naive = D2SMLoss(extractor, QUEUE, PATCHES), NaiveQueue(30)

    def features(batch):
        corners = [(top, left) for top in (0, 4, 8) for left in (0, 4, 8)]
        return torch.cat([extractor(image[None, :, t : t + 8, c : c + 8]) for image in batch for t, c in corners])

    for batch in (1, 2, 1, 2):
        restored, clear = images(batch, dtype=torch.float64)
        actual, expected = loss(restored, clear), naive(features(restored), features(clear))
        assert actual.item() == pytest.approx(expected.item(), rel=1e-9)
        gradients = [torch.autograd.grad(value, restored)[0] for value in (actual, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-12)
    assert loss.last["samples"] == 18 and loss.last["queue_fill"] == 30
    assert loss.last["divergence"].item() == actual.item() and not loss.last["divergence"].requires_grad


@pytest.mark.parametrize("patches", [PATCHES, {"type": "SpatialSampler"}])
def test_scope_image_compares_within_images(patches):
    extractor = TinyExtractor().double().eval()
    restored, clear = images(3, dtype=torch.float64)
    loss = D2SMLoss(extractor, patches={**patches, "scope": "image"})
    singles = [
        D2SMLoss(extractor, patches=patches)(restored[i : i + 1], clear[i : i + 1]).item() for i in range(len(clear))
    ]
    assert loss(restored, clear).item() == pytest.approx(sum(singles), rel=1e-12)
    loss.reduction = "mean"
    rows = loss.last["samples"]
    assert loss(restored, clear).item() == pytest.approx(sum(singles) / rows, rel=1e-12)


def test_positions_equal_the_dense_computation():
    extractor = TinyExtractor().double().eval()
    restored, clear = images(2, dtype=torch.float64)
    rows = [extractor.feature_map(part).permute(0, 2, 3, 1).flatten(0, 2) for part in (restored, clear)]
    actual = D2SMLoss(extractor, patches=SpatialSampler())(restored, clear)
    assert actual.item() == pytest.approx(dense_divergence(*rows).item(), rel=1e-9)


@pytest.mark.parametrize("patches", [None, PATCHES, {"type": "SpatialSampler", "max_positions": 9}])
@pytest.mark.parametrize("queue", [None, QUEUE])
def test_gradient_reaches_the_restored_image_and_nothing_else(patches, queue):
    """The published loss has no gradient at all; added to another objective it is a constant."""
    extractor = TinyExtractor()
    loss = D2SMLoss(extractor, queue, patches)
    for _ in range(3):
        restored, clear = images()
        clear.requires_grad_()
        loss(restored, clear).backward()
        assert restored.grad.abs().sum() > 0 and clear.grad is None
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in extractor.parameters())
    assert list(loss.parameters()) == []
    assert not any(buffer.requires_grad for buffer in loss.buffers())


def test_zero_at_equality_and_smaller_when_closer():
    loss = D2SMLoss(TinyExtractor(), patches=PATCHES)
    restored, clear = images()
    assert loss(clear, clear).item() == 0
    closer = clear + 0.5 * (restored - clear)
    assert 0 < loss(closer, clear) < loss(restored, clear)


def test_descent_brings_the_image_closer_in_statistics():
    loss = D2SMLoss(TinyExtractor(), patches=PATCHES)
    restored, clear = images(1)
    image = restored.detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([image], lr=0.01)
    values = []
    for _ in range(30):
        optimiser.zero_grad()
        value = loss(image, clear)
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert values[-1] < 0.1 * values[0]


def test_extractor_stays_in_eval_mode_and_moves_along():
    loss = D2SMLoss(TinyExtractor(), QUEUE)
    model = nn.ModuleDict({"loss": loss}).train()
    assert loss.training and not loss.extractor.training and not loss.extractor.dropout.training
    restored, clear = images()
    assert torch.equal(*(D2SMLoss(loss.extractor)(restored, clear) for _ in range(2)))
    model.double()
    assert next(loss.extractor.parameters()).dtype == torch.float64
    assert loss(restored.double(), clear.double()).dtype == torch.float64
    assert "extractor=TinyExtractor" in repr(loss)


def test_state_holds_queue_and_generator_but_no_extractor():
    def make():
        return D2SMLoss(TinyExtractor(), QUEUE, {**PATCHES, "max_patches": 4})

    loss, fresh = make(), make()
    for _ in range(3):
        loss(*images())
    buffers = ("restored", "difference", "sums", "pointer", "filled")
    names = {f"queue.{name}" for name in buffers}
    assert set(loss.state_dict()) == names | {"patches.generator_state"}
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    fresh.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    for _ in range(3):
        restored, clear = images()
        assert torch.equal(loss(restored, clear), fresh(restored, clear))
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in loss.state_dict().items())


def test_evaluation_leaves_no_trace():
    loss = D2SMLoss(TinyExtractor(), QUEUE, {**PATCHES, "max_patches": 4})
    loss(*images())
    before = copy.deepcopy(loss.state_dict())
    loss.eval()
    loss(*images())
    with torch.no_grad():
        loss.train()(*images())
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())


def test_under_autocast_the_divergence_is_float32():
    loss = D2SMLoss(TinyExtractor(), QUEUE, PATCHES)
    restored, clear = images(2)
    plain = copy.deepcopy(loss)(restored, clear)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(restored, clear)
    value.backward()
    assert value.dtype == torch.float32 and loss.queue.clear.dtype == torch.float32
    assert value.item() == pytest.approx(plain.item(), rel=0.2)
    assert restored.grad.isfinite().all() and restored.grad.abs().sum() > 0


def test_modules_and_option_blocks_are_the_same():
    restored, clear = images()
    blocks = D2SMLoss(TinyExtractor(), QUEUE, PATCHES)
    modules = D2SMLoss(TinyExtractor(), QueueSampler(30), PatchSampler(8, 4))
    assert torch.equal(blocks(restored, clear), modules(restored, clear))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r, c: (r, c * 255), r"clear images must be in \[0, 1\], found .*look like \[0, 255\], so divide"),
        (lambda r, c: (r, c * 2 - 1), r"clear images must be in \[0, 1\], found .*look like \[-1, 1\], so map"),
        (lambda r, c: (r, c * 1.5), r"clear images must be in \[0, 1\], found .* to 1\.\d+; are they"),
        (lambda r, c: (r, c * torch.nan), r"clear images must be in \[0, 1\], found nan"),
        (lambda r, c: (r * 255, c), r"restored images must be in \[0, 1\] or near it; they look like \[0, 255\]"),
        (lambda r, c: (r * 2 - 1, c), r"restored images must be in \[0, 1\] or near it; they look like \[-1, 1\]"),
        (lambda r, c: (r[..., :8], c), r"one shape \(B, C, H, W\), B > 0; got \(3, 3, 16, 8\) and \(3, 3, 16, 16\)"),
        (lambda r, c: (r[0], c[0]), r"one shape \(B, C, H, W\)"),
        (lambda r, c: (r, (c * 255).byte()), "floating point"),
    ],
)
def test_images_are_checked_at_the_first_call(change, message):
    with pytest.raises(ShapeError, match=message):
        D2SMLoss(TinyExtractor())(*change(*images()))


def test_any_output_of_an_untrained_network_is_taken():
    clear = images()[1]
    for restored in (torch.randn_like(clear), torch.randn_like(clear) - 0.5, torch.zeros_like(clear), 5 * clear - 2):
        assert D2SMLoss(TinyExtractor())(restored, clear).isfinite()
    black = torch.zeros_like(clear)
    assert D2SMLoss(TinyExtractor())(black, black).item() == 0
    assert D2SMLoss(TinyExtractor())(clear * torch.nan, clear).isnan()  # left to the training loop


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extractor": {"type": "VGGFeatures"}}, r"D2SMLoss\.extractor\.type: .*did you mean 'VGG19Features'"),
        ({"extractor": {"type": "VGG19Features", "layers": "fc7"}}, r"D2SMLoss\.extractor\.layers: .*mean 'layer'"),
        ({"extractor": 3}, r"D2SMLoss\.extractor: expected a module, a name or an option block .*, got int"),
        ({"queue": {"type": "QueueSampler"}}, r"D2SMLoss\.queue: QueueSampler needs size"),
        ({"queue": True}, r"D2SMLoss\.queue: expected a QueueSampler, its name or an option block, got True"),
        ({"queue": PATCHES}, r"D2SMLoss\.queue: no QueueSampler is called 'PatchSampler'; .*known: .*QueueSampler"),
        ({"patches": {"type": "PatchSampler", "stide": 3}}, r"D2SMLoss\.patches\.stide: .*did you mean 'stride'"),
        ({"patches": {**PATCHES, "scope": "image"}, "queue": QUEUE}, "scope 'image' compare samples of one image only"),
        ({"divergence": "KL"}, "divergence: 'KL' is unknown; did you mean 'kl'"),
        ({"reduction": "average"}, "reduction: 'average' is unknown"),
    ],
)
def test_options(options, message):
    with pytest.raises(OptionError, match=message):
        D2SMLoss(**{"extractor": TinyExtractor(), **options})


def test_extractor_must_give_vectors():
    with pytest.raises(ShapeError, match=r"Identity must give features \(B, D\); of images \(3, 3, 16, 16\) it made"):
        D2SMLoss(nn.Identity())(*images())


@pytest.mark.parametrize("level", [0.0, 0.02, -0.1, 100.0])
def test_an_untrained_network_may_give_a_nearly_constant_image(level):
    clear = 0.4 + 0.2 * torch.rand(2, 3, 8, 8)
    restored = (level + 0.01 * torch.randn(clear.shape)).requires_grad_()
    assert D2SMLoss(TinyExtractor())(restored, clear).isfinite()
