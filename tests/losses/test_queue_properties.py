from __future__ import annotations

import copy
import io

import pytest
import torch
from d2sm_reference import NaiveQueue, pair, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st

from d2sm_plugin.errors import OptionError
from d2sm_plugin.losses import QueueSampler
from d2sm_plugin.statistics.formula import DIVERGENCES


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


actions = st.lists(st.one_of(st.integers(1, 14), st.sampled_from(["reset", "reload", "eval"])), min_size=1, max_size=12)


@given(size=st.integers(3, 12), actions=actions, kind=st.sampled_from(sorted(DIVERGENCES)), seed=st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("ignore:QueueSampler. of a batch")
def test_any_sequence_of_batches_equals_the_dense_formula(size, actions, kind, seed):
    torch.manual_seed(seed)
    queue, naive = QueueSampler(size), NaiveQueue(size)
    for action in actions:
        if action == "reset":
            queue.reset()
            naive = NaiveQueue(size)
        elif action == "reload":
            file = io.BytesIO()
            torch.save(queue.state_dict(), file)
            queue = QueueSampler(size)
            queue.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
        elif action == "eval":
            queue.eval()(*pair(3, 6))
            queue.train()
        else:
            compare_with_dense(queue, naive, *pair(action, 6), kind)


def compare_with_dense(queue, naive, restored, clear, kind):
    restored, clear = restored[-queue.size :].detach().requires_grad_(), clear[-queue.size :]  # others do not count
    value, expected = queue(restored, clear, kind), naive(restored, clear, kind)
    (gradient,) = torch.autograd.grad(value, restored)
    if len(queue) < 3:  # one neighbour is certain: there are no statistics to differ in
        assert value.item() == pytest.approx(0, abs=1e-14) and gradient.abs().max() < 1e-12
    else:
        (expected_gradient,) = torch.autograd.grad(expected, restored)
        assert value.item() == pytest.approx(expected.item(), rel=1e-8)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-7, atol=1e-11)


def test_columns_in_pieces(monkeypatch):
    monkeypatch.setattr("d2sm_plugin.statistics.row_divergence._PAIRS_AT_ONCE", 50)
    queue, naive = QueueSampler(24), NaiveQueue(24)
    for _ in range(16):
        compare_with_dense(queue, naive, *pair(6, 64), "kl")


def test_sums_do_not_drift():
    """After many turns in float32 the sums are those of the rows that are there."""
    queue = QueueSampler(32)
    for step in range(400):
        queue(*pair(4, 64, 1.0 if step < 350 else 0.01, torch.float32))
    again = QueueSampler(32)
    order = [(int(queue.pointer) + row) % 32 for row in range(32)]
    restored = queue.restored[order].clone().requires_grad_()
    again(restored, queue.clear[order])
    assert relative_error(queue.sums[:, order], again.sums) < 1e-6
    assert relative_error(queue.sums[2, order], again.sums[2]) < 1e-4


@pytest.mark.parametrize(
    ("relative", "loss_error", "gradient_error"), [(0.01, 2e-3, 1e-2), (0.1, 2e-3, 1e-2), (1.0, 2e-3, 1e-2)]
)
def test_bfloat16_storage_agrees(relative, loss_error, gradient_error):
    queue, exact = QueueSampler(256, "bfloat16"), QueueSampler(256)
    for _ in range(12):
        restored, clear = pair(32, 1024, relative, torch.float32)
        value, expected = queue(restored, clear), exact(restored, clear)
        gradient, wanted = (torch.autograd.grad(part, restored)[0] for part in (value, expected))
    assert queue.restored.dtype == queue.difference.dtype == torch.bfloat16 and queue.sums.dtype == torch.float64
    assert abs(value.item() / expected.item() - 1) < loss_error
    assert relative_error(gradient, wanted) < gradient_error


def test_bfloat16_storage_is_consistent(monkeypatch):
    """What is subtracted is what was added: the queue equals a dense one of the rounded features."""
    monkeypatch.setattr("d2sm_plugin.statistics.pair_products._VALUES_IN_CACHE", 400)
    queue = QueueSampler(24, "bfloat16")
    for count in [5] * 30:
        restored, clear = pair(count, 40, 0.05)
        value = queue(restored, clear)
    x, y = queue.restored.double(), queue.restored.double() - queue.difference.double()
    assert value.item() == pytest.approx(_divergence_of_stored(x, y), rel=1e-3)
    equal_features = clear.clone().requires_grad_()
    equal = QueueSampler(24, "bfloat16")
    for _ in range(6):
        value = equal(equal_features, equal_features.detach())
    assert value.item() == 0 and torch.count_nonzero(torch.autograd.grad(value, equal_features)[0]) == 0


def _divergence_of_stored(x, y):
    """Unlike the reference it does not normalise anew: rounding has changed the norms a little."""
    rows = []
    for features in (x, y):
        kernel = (features @ features.T + 1) / 2
        kernel.fill_diagonal_(0)
        rows.append(kernel / kernel.sum(1, keepdim=True))
    off = ~torch.eye(len(x), dtype=torch.bool)
    return (rows[0][off] * (rows[0][off] / rows[1][off]).log()).sum().item()


def test_bfloat16_queue_resumes_and_copies():
    queue = QueueSampler(8, "bfloat16")
    for _ in range(4):
        queue(*pair(4, 16, dtype=torch.float32))
    fresh = QueueSampler(8, "bfloat16")
    fresh.load_state_dict(copy.deepcopy(queue.state_dict()))
    batch = pair(4, 16, dtype=torch.float32)
    value = queue(*batch)
    assert torch.equal(value, fresh(*batch))
    assert value.item() > 0


def test_dtype_option():
    with pytest.raises(OptionError, match=r"QueueSampler\.dtype: 'bf16' is unknown"):
        QueueSampler(8, "bf16")
