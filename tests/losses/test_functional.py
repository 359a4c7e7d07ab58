from __future__ import annotations

import math

import pytest
import torch
from d2sm_reference import dense_divergence, divergence_by_loops, pair, relative_error

from d2sm_plugin.errors import OptionError, ShapeError
from d2sm_plugin.losses import QueueSampler, semantic_divergence
from d2sm_plugin.statistics.row_sums import KINDS, phi, psi
from d2sm_plugin.statistics.unit_rows import unit_rows

RESTORED = torch.tensor([[1, 0], [0, 1], [1, 1], [-1, 2]], dtype=torch.float64)
CLEAR = torch.tensor([[1, 0.5], [0.2, 1], [1, 0.8], [-1, 1]], dtype=torch.float64)
KNOWN = {"kl": 0.0891497567, "reverse_kl": 0.0911556272, "js": 0.0901526919}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", KINDS)
def test_known_vectors(kind):
    assert divergence_by_loops(RESTORED, CLEAR, kind).item() == pytest.approx(KNOWN[kind], abs=1e-10)
    assert semantic_divergence(RESTORED, CLEAR, kind).item() == pytest.approx(KNOWN[kind], abs=1e-10)
    assert semantic_divergence(RESTORED, CLEAR, kind, "mean").item() == pytest.approx(KNOWN[kind] / 4, abs=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("relative", [1e-3, 0.1, 1.0])
def test_value_and_gradient_equal_the_loops(kind, relative):
    restored, clear = pair(7, 5, relative)
    expected = divergence_by_loops(restored, clear, kind)
    (expected_gradient,) = torch.autograd.grad(expected, restored)
    actual = semantic_divergence(restored, clear, kind)
    (gradient,) = torch.autograd.grad(actual, restored)
    # Close to equality it is the printed formula that loses digits.
    assert actual.item() == pytest.approx(expected.item(), rel=1e-8)
    assert relative_error(gradient, expected_gradient) < 1e-8
    assert dense_divergence(restored, clear, kind).item() == pytest.approx(expected.item(), rel=1e-8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_gradcheck(kind, reduction):
    restored, clear = pair(6, 4)
    assert torch.autograd.gradcheck(lambda x: semantic_divergence(x, clear, kind, reduction), (restored,))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_with_zero_gradient_at_equality(kind, dtype):
    clear = pair(9, 16, dtype=dtype)[1]
    restored = clear.clone().requires_grad_()
    value = semantic_divergence(restored, clear, kind)
    value.backward()
    assert value.item() == 0 and value.dtype == dtype
    assert torch.count_nonzero(restored.grad) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_positive_otherwise_and_the_directions_differ(kind):
    for _ in range(5):
        assert semantic_divergence(*pair(8, 6), kind).item() > 0
    restored, clear = pair(8, 6)
    assert semantic_divergence(restored, clear, "kl").item() == pytest.approx(
        semantic_divergence(clear, restored, "reverse_kl").item(), rel=1e-12
    )
    assert semantic_divergence(restored, clear, "kl") != semantic_divergence(restored, clear, "reverse_kl")


def test_order_and_scale_of_samples_do_not_matter():
    restored, clear = pair(10, 6)
    value = semantic_divergence(restored, clear)
    order = torch.randperm(10)
    assert semantic_divergence(restored[order], clear[order]).item() == pytest.approx(value.item(), rel=1e-12)
    scales = 10 ** torch.empty(2, 10, 1, dtype=torch.float64).uniform_(-1, 3)
    scaled = semantic_divergence(restored * scales[0], clear * scales[1])
    assert scaled.item() == pytest.approx(value.item(), rel=1e-9)


def test_order_within_pairs_does_matter():
    restored, clear = pair(10, 6, relative=0.1)
    assert semantic_divergence(restored, clear.roll(1, 0)) > 2 * semantic_divergence(restored, clear)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_samples_give_a_zero_on_the_graph_and_a_warning(count):
    """Of two samples each is the other's only neighbour, with a share of 1 whatever they look like."""
    restored = torch.randn(count, 4, requires_grad=True)
    with pytest.warns(UserWarning, match=rf"statistics of {count} sample.*compare 3 samples at least"):
        value = semantic_divergence(restored, torch.randn(count, 4))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert restored.grad.shape == (count, 4) and restored.grad.abs().sum() < 1e-12


def test_three_samples_are_enough(recwarn):
    restored, clear = pair(3, 4)
    value = semantic_divergence(restored, clear)
    value.backward()
    assert value.item() > 1e-6 and restored.grad.abs().max() > 1e-6
    assert not recwarn.list


@pytest.mark.parametrize("kind", KINDS)
def test_features_without_direction_or_in_opposite_ones(kind):
    restored = torch.tensor([[0.0, 0.0], [1.0, 2.0], [-1.0, -2.0], [0.0, 0.0]], requires_grad=True)
    clear = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.5], [-1.0, -0.5]])
    value = semantic_divergence(restored, clear, kind)
    value.backward()
    assert value.isfinite() and restored.grad.isfinite().all()


def test_gradient_reaches_the_restored_features_only():
    restored, clear = pair(6, 4)
    clear.requires_grad_()
    semantic_divergence(restored, clear).backward()
    assert restored.grad.abs().sum() > 0
    assert clear.grad is None


@pytest.mark.parametrize("relative", [0.01, 0.1, 1.0])
def test_accuracy_in_float32(relative):
    restored, clear = pair(256, 4096, relative, torch.float32)
    value = semantic_divergence(restored, clear)
    (gradient,) = torch.autograd.grad(value, restored)
    exact = restored.detach().double().requires_grad_()
    expected = dense_divergence(exact, clear)
    (expected_gradient,) = torch.autograd.grad(expected, exact)
    assert value.dtype == torch.float32
    assert abs(value.item() / expected.item() - 1) < 1e-5
    assert relative_error(gradient, expected_gradient) < 1e-5


def test_printed_formula_in_float32_is_not_accurate():
    """Why the row form: the figure for 1 % is about 3e-1."""
    restored, clear = pair(256, 4096, 0.01, torch.float32)
    unit = [torch.nn.functional.normalize(part.detach(), dim=1) for part in (restored, clear)]
    kernels = [((part @ part.T + 1) / 2).fill_diagonal_(0) for part in unit]
    p, q = (kernel / kernel.sum(1, keepdim=True) for kernel in kernels)
    printed = torch.where(torch.eye(256).bool(), 0.0, p * (p / q).log()).sum()
    expected = dense_divergence(restored.detach(), clear)
    assert abs(printed.item() / expected.item() - 1) > 1e-2


def test_half_precision_surroundings_change_nothing():
    restored, clear = pair(32, 64, 0.05, torch.float32)
    value = semantic_divergence(restored, clear)
    (gradient,) = torch.autograd.grad(value, restored)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            inside = semantic_divergence(restored, clear)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(precision)
    assert inside.dtype == torch.float32 and torch.equal(inside, value)
    assert torch.equal(torch.autograd.grad(inside, restored)[0], gradient)


def test_half_precision_features_get_half_precision_gradients():
    restored = torch.randn(6, 8, dtype=torch.bfloat16, requires_grad=True)
    value = semantic_divergence(restored, torch.randn(6, 8, dtype=torch.bfloat16))
    value.backward()
    assert value.dtype == torch.float32 and restored.grad.dtype == torch.bfloat16


def test_series_meet_the_logarithms():
    points = [-0.5, -0.011, -0.0099, -1e-4, -1e-9, 0.0, 1e-9, 1e-4, 0.0099, 0.011, 0.5, 3.0]
    t = torch.tensor(points, dtype=torch.float64)
    for value, point in zip(psi(t).tolist(), points, strict=True):
        # log(1 + t) = 2 atanh(t / (2 + t)), summed smallest term first
        z = point / (2 + point)
        log_less_first = 2 * sum(z**k / k for k in range(401, 1, -2))
        assert value == pytest.approx(point**2 / (2 + point) - log_less_first, rel=1e-12)
    expected = [(1 + p) * math.log1p(p) - p if abs(p) > 0.1 else None for p in points]
    for value, wanted in zip(phi(t).tolist(), expected, strict=True):
        assert wanted is None or value == pytest.approx(wanted, rel=1e-14)
    assert phi(t[4:7]).tolist() == pytest.approx([5e-19, 0.0, 5e-19], rel=1e-8)


def test_small_differences_keep_their_digits():
    restored, clear = pair(8, 64, 1e-4, torch.float32)
    rows, _ = unit_rows(restored.detach(), clear)
    exact, exact_clear = restored.detach().double(), clear.double()
    expected = exact / exact.norm(dim=1, keepdim=True) - exact_clear / exact_clear.norm(dim=1, keepdim=True)
    assert relative_error(rows.difference, expected) < 2e-6


@pytest.mark.parametrize("ratio", [1e-4, 1e4])
def test_lengths_that_differ_keep_their_digits(ratio):
    restored, clear = pair(8, 64, 1e-3, torch.float32)
    rows, _ = unit_rows(restored.detach() * ratio, clear)
    exact, exact_clear = restored.detach().double(), clear.double()
    expected = exact / exact.norm(dim=1, keepdim=True) - exact_clear / exact_clear.norm(dim=1, keepdim=True)
    assert (rows.difference - expected).abs().max() < 3e-7


def test_a_feature_of_zeros_has_no_direction():
    restored, clear = pair(5, 4, dtype=torch.float32)
    with torch.no_grad():
        restored[2] = 0
    rows, _ = unit_rows(restored.detach(), clear)
    assert torch.equal(rows.difference[2], -rows.clear[2])
    semantic_divergence(restored, clear).backward()
    assert torch.count_nonzero(restored.grad[2]) == 0 and restored.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["kl", "reverse_kl", "js"])
def test_tiny_and_huge_features_count_by_their_direction(kind):
    restored, clear = pair(5, 4, dtype=torch.float32)
    expected = semantic_divergence(restored, clear, kind)
    (gradient,) = torch.autograd.grad(expected, restored)
    for factor in (2.0**-100, 2.0**100):
        scaled = (restored.detach() * factor).requires_grad_()
        value = semantic_divergence(scaled, clear * factor, kind)
        assert value.item() == pytest.approx(expected.item(), rel=1e-6)
        torch.testing.assert_close(torch.autograd.grad(value, scaled)[0] * factor, gradient)


def test_a_feature_below_normal_numbers_has_no_direction_and_no_gradient():
    restored, clear = pair(5, 4, dtype=torch.float32)
    with torch.no_grad():
        restored[2] *= 1e-42 / restored[2].norm()
    value = semantic_divergence(restored, clear)
    value.backward()
    assert restored.grad.isfinite().all() and torch.count_nonzero(restored.grad[2]) == 0
    with torch.no_grad():
        restored[2] = 0
    assert semantic_divergence(restored, clear).item() == value.item()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", [0, 1], ids=["restored", "clear"])
def test_a_value_that_is_not_a_number_has_no_finite_gradient(bad, where):
    """Nobody who looks at gradients alone, such as a scaler of gradients, steps by them."""
    features = [part.detach().clone() for part in pair(5, 4, dtype=torch.float32)]
    features[where][1, 2] = bad
    features[0].requires_grad_()
    for divergence in (semantic_divergence, QueueSampler(6)):
        value = divergence(*features)
        (gradient,) = torch.autograd.grad(value, features[0])
        assert value.isnan() and gradient.isnan().all()


@pytest.mark.parametrize("kind", [*KINDS, "js_mixture"])
def test_a_lone_sample_of_a_queue_says_nothing(kind):
    restored, clear = pair(1, 4)
    value = QueueSampler(6)(restored, clear, kind)
    assert value.item() == 0 and torch.count_nonzero(torch.autograd.grad(value, restored)[0]) == 0


def test_the_value_may_be_added_to_in_place():
    restored, clear = pair(5, 4)
    expected = torch.autograd.grad(semantic_divergence(restored, clear) + restored.sum(), restored)[0]
    for divergence in (semantic_divergence, QueueSampler(6)):
        value = divergence(restored, clear)
        value += restored.sum()
        value *= 2
        torch.testing.assert_close(torch.autograd.grad(value, restored)[0], 2 * expected)


def test_exceptions():
    features = torch.rand(4, 3)
    with pytest.raises(OptionError, match="divergence: 'reverse' is unknown; did you mean 'reverse_kl'"):
        semantic_divergence(features, features, "reverse")
    with pytest.raises(OptionError, match=r"reduction: 'none' is unknown.*known: mean, sum"):
        semantic_divergence(features, features, reduction="none")
    with pytest.raises(ShapeError, match=r"shape \(N, D\); got \(4, 3\) and \(3, 3\)"):
        semantic_divergence(features, features[:3])
    with pytest.raises(ShapeError, match=r"got \(4, 3, 1\)"):
        semantic_divergence(features[..., None], features[..., None])
    with pytest.raises(ShapeError, match="floating point"):
        semantic_divergence(features.long(), features)
