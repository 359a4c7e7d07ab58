"""Several training sets as one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

from d2sm_plugin.data.noise import NOISE_SEED
from d2sm_plugin.errors import DataError, OptionError
from d2sm_plugin.random_guard import untouched_random_state


class JoinedDatasets(Dataset[dict[str, Any]]):
    """The samples of several datasets in a row, each with the entries that all of them give.

    Batches mix the sets, so an entry that one of them lacks (``sigma`` of real noise, say) is taken away. What a set
    gives is found by reading its first sample, in the process that reads and at its first sample.

    Args:
        datasets: key in the option file -> dataset, whose items are mappings.

    Raises:
        OptionError: when only some of them leave the noise to the model's device.
        DataError: when they have no entry in common, or images with different numbers of channels.
    """

    def __init__(self, datasets: Mapping[str, Dataset[dict[str, Any]]]) -> None:
        self.datasets = dict(datasets)
        self.joined: ConcatDataset[dict[str, Any]] = ConcatDataset(list(datasets.values()))
        self._common: set[str] | None = None

    def __len__(self) -> int:
        return len(self.joined)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.joined[index]
        if self._common is None:
            with untouched_random_state():
                self._common = self._common_entries()
        return {name: value for name, value in item.items() if name in self._common}

    def _common_entries(self) -> set[str]:
        samples = {key: dataset[0] for key, dataset in self.datasets.items()}
        seeded = [key for key, sample in samples.items() if NOISE_SEED in sample]
        noisy = [key for key in samples if key not in seeded]
        if seeded and noisy:
            raise OptionError(
                f"datasets.{seeded[0]}.noise_on: training sets share batches, and datasets.{noisy[0]} gives images "
                f"with their noise; set noise_on: device in every training set, or in none"
            )
        common = set.intersection(*map(set, samples.values()))
        if not common:
            entries = "; ".join(f"{key} gives {', '.join(sorted(sample))}" for key, sample in samples.items())
            raise DataError(f"datasets: training sets share batches, but have no entry in common ({entries})")
        for name in sorted(common):
            channels = {key: sample[name].shape[0] for key, sample in samples.items() if _is_image(sample[name])}
            if len(set(channels.values())) > 1:
                entries = ", ".join(f"{number} in {key}" for key, number in channels.items())
                raise DataError(
                    f"datasets: training sets share batches, but the channels of '{name}' differ ({entries})"
                )
        return common


def _is_image(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 3
