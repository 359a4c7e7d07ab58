from __future__ import annotations

import copy
import io

import pytest
import torch
from d2sm_reference import NaiveQueue, dense_divergence, pair, relative_error

from d2sm_plugin.errors import OptionError
from d2sm_plugin.losses import QueueSampler
from d2sm_plugin.statistics.row_sums import KINDS


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def check_against_dense(size, counts, dimension, kind="kl"):
    """Returns after which batches the queue could do without the pairs of those that leave."""
    queue, naive, spared = QueueSampler(size), NaiveQueue(size), []
    for count in counts:
        leaving = max(0, len(queue) + count - size)
        spared.append(queue.ledger.knows(leaving, len(queue)) if leaving else None)
        restored, clear = pair(count, dimension)
        value, expected = queue(restored, clear, kind), naive(restored, clear, kind)
        assert value.item() == pytest.approx(expected.item(), rel=1e-10)
        gradient, expected_gradient = (torch.autograd.grad(part, restored)[0] for part in (value, expected))
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-13)
    return spared


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("size", "counts"),
    [
        (12, [4] * 12),
        (12, [5] * 12),  # blocks of one row
        (10, [4] * 14),  # blocks of two, batches that wrap around
        (12, [8] * 9),
        (24, [12, 6, *[6] * 12]),
        (9, [9] * 4),
    ],
)
def test_equal_batches_need_no_leaving_pairs(kind, size, counts):
    spared = check_against_dense(size, counts, 64, kind)
    assert spared[-1] is True


def test_batches_that_change_their_size():
    counts = [4, 4, 4, 4, 4, 2, 4, 3, 4, 4, 4, 4, 4, 4, 4, 6, 6, 6, 6, 6, 6, 1, 12, 4, 4, 4, 4, 4]
    spared = check_against_dense(12, counts, 64)
    assert True in spared and False in spared


@pytest.mark.parametrize("size", [5, 8, 12, 33])
@pytest.mark.filterwarnings("ignore:QueueSampler. of a batch")
def test_any_batches(size):
    check_against_dense(size, torch.randint(2, size + 4, (30,)).tolist(), 80)


def test_spans_of_columns_are_whole_blocks(monkeypatch):
    monkeypatch.setattr("d2sm_plugin.statistics.row_divergence._PAIRS_AT_ONCE", 50)
    spared = check_against_dense(24, [6] * 16, 64)
    assert spared[-1] is True


def test_no_ledger_larger_than_the_features():
    queue = QueueSampler(12)
    for _ in range(6):
        queue(*pair(3, 7))
    assert queue.ledger.blocks.numel() == 0 and not queue.ledger.knows(3, 12)
    queue.reset()
    for _ in range(6):
        queue(*pair(3, 8))
    assert queue.ledger.blocks.shape == (4, 4, 12) and queue.ledger.knows(3, 12)


def test_state_dict_and_validation():
    batches = [pair(4, 40, dtype=torch.float32) for _ in range(12)]
    queue = QueueSampler(16)
    for batch in batches[:6]:
        queue(*batch)
    file = io.BytesIO()
    torch.save(queue.state_dict(), file)
    fresh = QueueSampler(16)
    fresh.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert fresh.ledger.knows(4, 16)
    fresh.eval()
    for count in (1, 3, 4, 16):
        fresh(*pair(count, 40, dtype=torch.float32))
    fresh.train()
    for restored, clear in batches[6:]:
        values = [module(restored, clear) for module in (queue, fresh)]
        assert torch.equal(*values)
        assert torch.equal(*(torch.autograd.grad(value, restored)[0] for value in values))
    queue.ledger.reset()  # without it the pairs are computed again
    restored, clear = pair(4, 40, dtype=torch.float32)
    assert queue(restored, clear).item() == pytest.approx(fresh(restored, clear).item(), rel=1e-5)


def test_sums_do_not_drift():
    """After many turns in float32 the sums are those of the rows that are there."""
    queue = QueueSampler(32)
    for step in range(400):
        queue(*pair(4, 64, 1.0 if step < 350 else 0.01, torch.float32))
    assert queue.ledger.knows(4, 32)
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
    same = clear.clone().requires_grad_()
    equal = QueueSampler(24, "bfloat16")
    for _ in range(6):
        value = equal(same, same.detach())
    assert value.item() == 0 and torch.count_nonzero(torch.autograd.grad(value, same)[0]) == 0


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
    assert torch.equal(queue(*batch), fresh(*batch))
    assert dense_divergence(*batch).item() > 0


def test_dtype_option():
    with pytest.raises(OptionError, match=r"QueueSampler\.dtype: 'bf16' is unknown"):
        QueueSampler(8, "bf16")
