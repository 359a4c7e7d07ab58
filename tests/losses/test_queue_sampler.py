from __future__ import annotations

import copy
import io

import pytest
import torch
from d2sm_reference import NaiveQueue, divergence_by_loops, pair

from d2sm_plugin.errors import OptionError, ShapeError
from d2sm_plugin.losses import QueueSampler, semantic_divergence
from d2sm_plugin.statistics.row_sums import KINDS


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def held(queue):
    """Unit features of what a queue holds, oldest first."""
    order = [(int(queue.pointer) - len(queue) + row) % queue.size for row in range(len(queue))]
    return (queue.clear + queue.difference)[order], queue.clear[order]


def unit(features):
    return features.detach() / features.detach().norm(dim=1, keepdim=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:QueueSampler. of a batch")
def test_value_and_gradient_equal_the_loops(kind):
    """Filling, full, batches that do not divide the size, single samples, and a batch larger than the queue."""
    queue, naive = QueueSampler(7), NaiveQueue(7, divergence_by_loops)
    for count in (1, 1, 3, 4, 2, 7, 1, 10, 3):
        restored, clear = pair(count, 5)
        value, expected = queue(restored, clear, kind), naive(restored, clear, kind)
        assert value.item() == pytest.approx(expected.item(), rel=1e-9, abs=1e-15)
        gradient, expected_gradient = (torch.autograd.grad(part, restored)[0] for part in (value, expected))
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [3, 5, 16, 33])
@pytest.mark.filterwarnings("ignore:QueueSampler. of a batch")
def test_any_batch_sizes(kind, size):
    queue, naive = QueueSampler(size), NaiveQueue(size)
    for count in torch.randint(1, size + 5, (25,)).tolist():
        restored, clear = pair(count, 6)
        value, expected = queue(restored, clear, kind), naive(restored, clear, kind)
        assert len(queue) == len(naive.clear)
        for actual, wanted in zip(held(queue), (naive.restored, naive.clear), strict=True):
            torch.testing.assert_close(actual, unit(wanted))
        if len(queue) > 1:
            assert value.item() == pytest.approx(expected.item(), rel=1e-10)
            gradient, expected_gradient = (torch.autograd.grad(part, restored)[0] for part in (value, expected))
            torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-13)


def test_first_in_first_out_step_by_step():
    queue = QueueSampler(5)
    directions = unit(torch.randn(12, 4, dtype=torch.float64))
    for arriving, kept in (([0, 1], [0, 1]), ([2, 3], [0, 1, 2, 3]), ([4, 5], [1, 2, 3, 4, 5]), ([6], [2, 3, 4, 5, 6])):
        queue(directions[arriving], directions[arriving].flip(1))
        restored, clear = held(queue)
        torch.testing.assert_close(restored, directions[kept])
        torch.testing.assert_close(clear, directions[kept].flip(1))
    with pytest.warns(UserWarning, match="of a batch of 6 samples only the newest 5 count; set size above 6"):
        queue(directions[5:11], directions[5:11])
    torch.testing.assert_close(held(queue)[0], directions[6:11])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("history", [0, 3, 6])
def test_gradcheck(kind, history):
    """In eval mode a step leaves no trace, so it can be repeated."""
    queue = QueueSampler(6)
    if history:
        queue(*pair(history, 4))
    queue.eval()
    restored, clear = pair(3, 4)
    assert torch.autograd.gradcheck(lambda x: queue(x, clear, kind), (restored,))


def test_a_queue_that_holds_one_batch_equals_no_queue():
    restored, clear = pair(8, 6)
    for size in (8, 20):
        for reduction in ("sum", "mean"):
            actual = QueueSampler(size)(restored, clear, "js", reduction)
            expected = semantic_divergence(restored, clear, "js", reduction)
            assert actual.item() == pytest.approx(expected.item(), rel=1e-13)


def test_mean_divides_by_the_samples_held():
    batches = [pair(4, 6) for _ in range(4)]
    sums, means = QueueSampler(10), QueueSampler(10)
    for (restored, clear), held_then in zip(batches, (4, 8, 10, 10), strict=True):
        total, mean = sums(restored, clear), means(restored, clear, reduction="mean")
        assert mean.item() == pytest.approx(total.item() / held_then, rel=1e-12)
        gradients = [torch.autograd.grad(value, restored)[0] for value in (total, mean)]
        torch.testing.assert_close(gradients[1] * held_then, gradients[0])


def test_order_within_a_batch_does_not_matter():
    queue = QueueSampler(12)
    queue(*pair(8, 6))
    other = copy.deepcopy(queue)
    restored, clear = pair(4, 6)
    order = torch.tensor([2, 0, 3, 1])
    assert queue(restored, clear).item() == pytest.approx(other(restored[order], clear[order]).item(), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_zero_with_zero_gradient_at_equality(kind):
    queue = QueueSampler(10)
    for _ in range(5):
        clear = pair(4, 6, dtype=torch.float32)[1]
        restored = clear.clone().requires_grad_()
        value = queue(restored, clear, kind)
        value.backward()
        assert value.item() == 0
        assert torch.count_nonzero(restored.grad) == 0


def test_gradient_reaches_the_new_restored_features_only():
    """The published code computes its divergence from copies made without a graph: its loss has no gradient."""
    queue = QueueSampler(8)
    for _ in range(4):
        restored, clear = pair(4, 6)
        clear.requires_grad_()
        value = queue(restored, clear)
        value.backward()
        assert value.requires_grad and restored.grad.abs().sum() > 0
        assert clear.grad is None
        assert not any(buffer.requires_grad for buffer in queue.buffers())


def test_backward_may_wait_until_the_queue_has_moved_on():
    queue = QueueSampler(6)
    batches = [pair(3, 5) for _ in range(3)]
    values = [queue(*batch) for batch in batches]
    again = QueueSampler(6)
    for value, (restored, clear) in zip(values, batches, strict=True):
        (late,) = torch.autograd.grad(value, restored)
        (prompt,) = torch.autograd.grad(again(restored, clear), restored)
        assert torch.equal(late, prompt)


def test_nothing_is_written_in_eval_mode_or_without_gradients():
    queue = QueueSampler(6)
    for filled in (0, 4, 6):
        if filled:
            queue(*pair(filled, 5))
        before = copy.deepcopy(queue.state_dict())
        restored, clear = pair(3, 5)
        expected = copy.deepcopy(queue)(restored, clear)
        with torch.no_grad():
            without_gradients = queue(restored, clear)
        queue.eval()
        in_eval = queue(restored, clear)
        queue.train()
        assert not without_gradients.requires_grad
        assert torch.equal(without_gradients, expected) and torch.equal(in_eval, expected)
        assert before.keys() == queue.state_dict().keys()
        assert all(torch.equal(before[name], value) for name, value in queue.state_dict().items())


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_step_that_fails_leaves_the_queue_as_it_was(monkeypatch, steps):
    queue = QueueSampler(7)
    for _ in range(steps):
        queue(*pair(3, 5))
    before = copy.deepcopy(queue.state_dict())

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr("d2sm_plugin.losses.queue_sampler.match_statistics", fail)
    with pytest.raises(MemoryError):
        queue(*pair(3, 5))
    assert all(torch.equal(before[name], value) for name, value in queue.state_dict().items())


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_state_dict_restores_a_fresh_queue_exactly(steps):
    batches = [pair(3, 5, dtype=torch.float32) for _ in range(9)]
    queue = QueueSampler(7)
    for batch in batches[:steps]:
        queue(*batch)
    file = io.BytesIO()
    torch.save(queue.state_dict(), file)
    fresh = QueueSampler(7)
    fresh.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert len(fresh) == len(queue)
    for restored, clear in batches[steps:]:
        values = [module(restored, clear) for module in (queue, fresh)]
        assert torch.equal(*values)
        assert torch.equal(*(torch.autograd.grad(value, restored)[0] for value in values))


def test_state_dict_replaces_what_was_there():
    empty, used = QueueSampler(7).state_dict(), QueueSampler(7)
    used(*pair(3, 5))
    used.load_state_dict(empty)
    assert len(used) == 0
    used(*pair(3, 9))


def test_state_dict_of_another_size():
    stored = QueueSampler(4)
    stored(*pair(3, 5))
    with pytest.raises(RuntimeError, match="holds a queue of size 4, this one has size 6; set the size to 4"):
        QueueSampler(6).load_state_dict(stored.state_dict())


def test_reset():
    queue, fresh = QueueSampler(6), QueueSampler(6)
    for _ in range(3):
        queue(*pair(4, 5))
    queue.reset()
    assert len(queue) == 0
    restored, clear = pair(4, 8)
    assert torch.equal(queue(restored, clear), fresh(restored, clear))


def test_casting_leaves_the_memory_alone():
    queue = QueueSampler(6)
    queue(*pair(4, 5, dtype=torch.float32))
    before = copy.deepcopy(queue.state_dict())
    queue.half()
    assert all(torch.equal(before[name], value) for name, value in queue.state_dict().items())
    assert queue.sums.dtype == torch.float64 and queue.clear.dtype == torch.float32
    queue.to("meta")
    assert queue.clear.is_meta and queue.pointer.device.type == "cpu"


def test_half_precision_surroundings_change_nothing():
    batches = [pair(4, 16, 0.05, torch.float32) for _ in range(4)]
    plain, inside = QueueSampler(10), QueueSampler(10)
    for restored, clear in batches:
        expected = plain(restored, clear)
        with torch.autocast("cpu", torch.bfloat16):
            value = inside(restored, clear)
        assert value.dtype == torch.float32 and torch.equal(value, expected)
    assert inside.clear.dtype == torch.float32


def test_features_that_are_not_finite_do_not_spoil_the_queue():
    queue = QueueSampler(6)
    queue(*pair(4, 5))
    restored, clear = pair(2, 5)
    broken = restored.detach().clone()
    broken[1, 2] = torch.inf
    assert queue(broken, clear).isnan()
    for _ in range(3):
        value = queue(*(batch := pair(2, 5)))
        assert value.isfinite() and torch.autograd.grad(value, batch[0])[0].isfinite().all()
    naive = NaiveQueue(6)
    batches = [pair(2, 5) for _ in range(3)]
    pairs = [(queue(*batch).item(), naive(*batch).item()) for batch in batches]
    assert pairs[-1][0] == pytest.approx(pairs[-1][1], rel=1e-10)


def test_exceptions():
    for size in (2, 0, 2.5, True, "8"):
        with pytest.raises(OptionError, match=r"QueueSampler\.size: expected an integer of at least 3"):
            QueueSampler(size)
    queue = QueueSampler(4)
    queue(*pair(3, 5))
    with pytest.raises(ShapeError, match="dimension 6 given to a queue that holds features of dimension 5; use images"):
        queue(*pair(3, 6))
    with pytest.raises(ShapeError, match="shape"):
        queue(torch.rand(3, 5), torch.rand(2, 5))
    with pytest.raises(OptionError, match="divergence: 'kld' is unknown; did you mean 'kl'"):
        queue(*pair(3, 5), "kld")
