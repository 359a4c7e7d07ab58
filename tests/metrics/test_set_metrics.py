from __future__ import annotations

import pytest
import torch

from d2sm_plugin.errors import DataError, DependencyError, OptionError
from d2sm_plugin.losses.functional import semantic_divergence
from d2sm_plugin.metrics.better import better_of, lower_is_better
from d2sm_plugin.metrics.divergence_metric import SemanticDivergence
from d2sm_plugin.metrics.torchmetrics_metric import TorchMetric

EXTRACTOR = {"type": "TimmFeatures", "model": "mobilenetv3_small_050", "weights": None, "stride": 16}


def pairs(number=4, size=64):
    generator = torch.Generator().manual_seed(0)
    clear = torch.rand(number, 1, 3, size, size, generator=generator)
    return {f"k{i}": (image * 0.8 + 0.1, image) for i, image in enumerate(clear)}


def test_the_divergence_is_that_of_all_samples_in_any_order():
    torch.manual_seed(0)
    metric = SemanticDivergence(EXTRACTOR, positions=5)
    values = []
    for order in (1, -1):
        metric.reset()
        for key, (restored, clear) in list(pairs().items())[::order]:
            metric.update(key, restored, clear)
        values.append(metric.compute())
    assert values[0] == values[1] > 0
    features = []
    for side in (0, 1):
        maps = [metric.extractor.feature_map(pair[side])[0].flatten(1).T for pair in pairs().values()]
        features.append(torch.cat([positions[torch.linspace(0, 15, 5).round().long()] for positions in maps]))
    expected = semantic_divergence(*(value.double() for value in features), reduction="mean").item()
    assert values[0] == pytest.approx(expected, rel=1e-4)
    metric.reset()
    for key, (_, clear) in pairs().items():
        metric.update(key, clear, clear)
    assert metric.compute() == pytest.approx(0, abs=1e-7)


def test_the_divergence_says_what_it_lacks():
    metric = SemanticDivergence(EXTRACTOR, positions=2)
    with pytest.raises(DataError, match="no gt for 'a' to compare with"):
        metric.update("a", torch.rand(1, 3, 64, 64), None)
    metric.update("a", *next(iter(pairs().values())))
    with pytest.raises(OptionError, match=r"2 sample\(s\) of 1 image\(s\); it takes 3 at least"):
        metric.compute()
    with pytest.raises(OptionError, match="divergence: 'kk' is unknown"):
        SemanticDivergence(EXTRACTOR, kind="kk")


@pytest.mark.parametrize(("name", "better"), [("PeakSignalNoiseRatio", "higher"), ("TotalVariation", "lower")])
def test_metrics_of_torchmetrics_by_name(name, better):
    torchmetrics = pytest.importorskip("torchmetrics")
    metric = TorchMetric(name)
    assert better_of({"type": "TorchMetric", "metric": name}, "x") == better
    for _ in range(2):
        metric.reset()
        for key, (restored, clear) in pairs().items():
            metric.update(key, restored, clear)
        value = metric.compute()
    restored, clear = (torch.cat([pair[side] for pair in pairs().values()]) for side in (0, 1))
    reference = getattr(torchmetrics.image, name)(**({"data_range": 1.0} if metric.compares else {}))
    reference.update(*((restored, clear) if metric.compares else (restored,)))
    assert value == pytest.approx(reference.compute().item(), rel=1e-5)


def test_distances_of_distributions_get_both_kinds_of_images():
    pytest.importorskip("torchmetrics")

    class Distance(torch.nn.Module):
        higher_is_better = False

        def update(self, imgs, real):
            self.counts[real] += len(imgs)

        def reset(self):
            self.counts = {True: 0, False: 0}

        def compute(self):
            return torch.tensor(float(self.counts[True] * 10 + self.counts[False])), torch.tensor(0.5)

    metric = TorchMetric("PeakSignalNoiseRatio")
    metric.metric, metric.by_kind, metric.compares = Distance(), True, True
    metric.reset()
    for key, (restored, clear) in pairs().items():
        metric.update(key, restored, clear)
    assert metric.compute() == 44


def test_unknown_and_unavailable_metrics_are_one_line(monkeypatch):
    pytest.importorskip("torchmetrics")
    with pytest.raises(OptionError, match="has no image metric 'LPIP'; did you mean 'LPIPS'"):
        TorchMetric("LPIP")
    with pytest.raises(OptionError, match=r"TorchMetric PeakSignalNoiseRatio: .*sharpness"):
        TorchMetric("PeakSignalNoiseRatio", {"sharpness": 3})

    import torchmetrics

    class Lpips:
        def __init__(self):
            raise RuntimeError("weights\ncannot be downloaded")

    monkeypatch.setattr(torchmetrics.image, "LearnedPerceptualImagePatchSimilarity", Lpips)
    with pytest.raises(DependencyError, match=r"TorchMetric LPIPS cannot be set up here \(weights cannot be"):
        TorchMetric("LPIPS")


def test_better_is_declared_by_the_metric_unless_the_file_says_it():
    assert better_of({"type": "calculate_psnr"}, "x") == "higher"
    assert better_of({"type": "calculate_niqe"}, "x") == "lower"
    assert better_of({"type": "SemanticDivergence"}, "x") == "lower"
    assert better_of({"type": "calculate_nrmse"}, "x") == "lower"
    assert better_of({"type": "calculate_psnr", "better": "lower"}, "x") == "lower"
    blocks = {"psnr": {"type": "calculate_psnr"}, "far": {"type": "SemanticDivergence"}}
    assert lower_is_better(blocks, {"nrmse": "lower", "sharp": "higher"}) == {"far", "far_input", "nrmse"}
