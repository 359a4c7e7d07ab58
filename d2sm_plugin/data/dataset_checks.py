"""A front for data sets of BasicSR and of users: what goes wrong in them names the sample and the file."""

from __future__ import annotations

import os
from typing import Any

from torch.utils.data import Dataset

from d2sm_plugin.data.decoding import decode_rgb
from d2sm_plugin.data.picture_head import read_picture_bytes
from d2sm_plugin.errors import D2SMError, DataError


class CheckedDataset(Dataset[dict[str, Any]]):
    """The items of another data set, unchanged; whatever it raises becomes a :class:`DataError` in one line.

    Where the data set keeps the files of its samples in ``paths``, as BasicSR's do, the message names them, and a
    damaged one alone.

    Args:
        dataset: the other data set.
        where: path of its option block, for messages.
    """

    def __init__(self, dataset: Dataset[dict[str, Any]], where: str) -> None:
        self.dataset = dataset
        self.where = where

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            return self.dataset[index]
        except D2SMError:
            raise
        except Exception as error:  # a data set may raise anything
            files = self._files(index)
            for name, file in files.items():
                self._check(name, file)
            sample = ", ".join(files.values()) or f"sample {index}"
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise DataError(f"{self.where}: {type(self.dataset).__name__} fails on {sample} ({reason})") from error

    def _files(self, index: int) -> dict[str, str]:
        """Files or LMDB keys of a sample, by what BasicSR calls them (``lq``, ``gt``)."""
        paths = getattr(self.dataset, "paths", None)
        entry = paths[index] if isinstance(paths, (list, tuple)) and index < len(paths) else None
        if isinstance(entry, dict):
            return {str(name).removesuffix("_path"): value for name, value in entry.items() if isinstance(value, str)}
        return {"gt": entry} if isinstance(entry, str) else {}

    def _check(self, name: str, file: str) -> None:
        """Raise if it is this file that cannot be read."""
        client: Any = getattr(getattr(self.dataset, "file_client", None), "client", None)
        if hasattr(client, "db_paths"):
            decode_rgb(client.get(file, name), f"{self.where}: record '{file}' ({name})")
        elif os.path.splitext(file)[1]:
            decode_rgb(read_picture_bytes(file), f"{self.where}: {file}")
