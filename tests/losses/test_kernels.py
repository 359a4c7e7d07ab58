"""The centred kernel against the printed formula on centred features, without and with a queue."""

from __future__ import annotations

import io

import pytest
import torch
from d2sm_reference import TinyExtractor, dense_divergence, divergence_by_loops

from d2sm_plugin.errors import OptionError
from d2sm_plugin.losses import D2SMLoss


def images(seed, count=4):
    generator = torch.Generator().manual_seed(seed)
    clear = torch.rand(count, 3, 16, 16, dtype=torch.float64, generator=generator)
    noise = torch.randn(clear.shape, dtype=torch.float64, generator=generator)
    return (clear + 0.1 * noise).clamp(0, 1).requires_grad_(), clear


def features(extractor, pair):
    return extractor(pair[0]), extractor(pair[1]).detach()


@pytest.mark.parametrize("kind", ["kl", "reverse_kl", "js"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_batch_alone(kind, reduction):
    extractor = TinyExtractor().double().eval()
    pair = images(0)
    loss = D2SMLoss(extractor, kernel="centred_cosine", divergence=kind, reduction=reduction)
    restored, clear = features(extractor, pair)
    centre = clear.mean(0)
    expected = divergence_by_loops(restored - centre, clear - centre, kind) / (4 if reduction == "mean" else 1)
    value = loss(*pair)
    assert value.item() == pytest.approx(expected.item(), rel=1e-8)
    torch.testing.assert_close(
        *(torch.autograd.grad(part, pair[0])[0] for part in (value, expected)), rtol=1e-6, atol=1e-9
    )
    assert value.item() != pytest.approx(D2SMLoss(extractor)(*pair).item(), rel=0.1)


def test_windows_of_one_image_have_the_centre_of_the_batch():
    extractor = TinyExtractor().double().eval()
    patches = {"type": "SpatialSampler", "scope": "image"}
    pair = images(0, 2)
    value = D2SMLoss(extractor, patches=patches, kernel="centred_cosine")(*pair)
    maps = [extractor.feature_map(image).flatten(2).transpose(1, 2) for image in pair]
    centre = maps[1].flatten(0, 1).mean(0)
    expected = sum(dense_divergence(maps[0][n] - centre, maps[1][n] - centre).item() for n in range(2))
    assert value.item() == pytest.approx(expected, rel=1e-8)


def test_a_queue_holds_rows_centred_alike():
    extractor = TinyExtractor().double().eval()
    loss = D2SMLoss(extractor, queue=10, kernel="centred_cosine")
    met, centre = [], None
    for step in range(9):
        pair = images(step)
        if step == 6:  # a validation between changes nothing, and a state read back goes on
            loss.eval()(*images(99))
            file = io.BytesIO()
            torch.save(loss.state_dict(), file)
            loss = D2SMLoss(extractor, queue=10, kernel="centred_cosine")
            loss.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
        restored, clear = features(extractor, pair)
        value = loss(*pair)
        if step < 3:  # 4, 8 and 12 samples: the third batch completes the ten
            met.append(clear)
            expected = dense_divergence(restored - clear.mean(0), clear - clear.mean(0))
            centre, rows = torch.cat(met).mean(0), []
        else:
            rows.append((restored - centre, clear - centre))
            past = [[part.detach() for part in pair] for pair in rows[:-1]] + rows[-1:]
            joined = [torch.cat(parts)[-10:] for parts in zip(*past, strict=True)]
            expected = dense_divergence(*joined)
        assert value.item() == pytest.approx(expected.item(), rel=1e-8), step
        torch.testing.assert_close(
            *(torch.autograd.grad(part, pair[0])[0] for part in (value, expected)), rtol=1e-6, atol=1e-9
        )


def test_unknown_kernels_are_refused():
    with pytest.raises(OptionError, match=r"D2SMLoss\.kernel: 'centered' is unknown.*centred_cosine"):
        D2SMLoss(TinyExtractor(), kernel="centered")
