"""The same crop under every variant, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from basicsr.metrics import calculate_psnr
from basicsr.utils.registry import ARCH_REGISTRY
from numpy.typing import NDArray
from tqdm import tqdm

from d2sm_plugin.errors import DataError, OptionError, suggest
from d2sm_plugin.metrics.images import to_uint8
from d2sm_plugin.models.restore import restore_batch
from d2sm_plugin.options.data_sets import evaluation_blocks
from d2sm_plugin.options.reader import validate_options
from d2sm_plugin.pipeline.loaders import build_dataset
from d2sm_plugin.pipeline.pictures import Sheet, lay_out, most_detailed, stack_sheets, write_png, write_sheet
from d2sm_plugin.pipeline.validation import image_keys
from d2sm_plugin.registry import build
from d2sm_plugin.studies.compare.jobs import SuiteRun
from d2sm_plugin.studies.compare.suite import Suite
from d2sm_plugin.studies.evaluation.methods import spread
from d2sm_plugin.weights import load_weights

Image = NDArray[np.uint8]
Crop = tuple[int, int, int, int]
_COLUMNS = 4
_NARROWEST = 256  # smaller crops are enlarged, or their labels would not fit


def write_grids(suite: Suite, jobs: Sequence[SuiteRun], folder: Path) -> list[Path]:
    """Write pictures for some images of every test set: input, every row, clean, with the PSNR of the crop.

    They are named ``grid_KEY_SIGMA.png``, or ``grid_KEY_SET.png`` where sets share a noise level or have none.

    Each row is shown by its finished run of the lowest seed. Restored pictures are kept beside the run's results.

    Args:
        suite: the suite; ``grid`` says which images and which window.
        jobs: of the suite.
        folder: of the report.

    Returns:
        The files.

    Raises:
        OptionError: for a key that a test set lacks, or a window outside the image.
    """
    shown = _first_finished(jobs)
    if not shown or (suite.grid.keys is None and suite.grid.count == 0):
        return []
    written = []
    options = validate_options(deepcopy(dict(next(iter(shown.values())).test)), is_train=False)
    blocks = evaluation_blocks(options["datasets"], ("test", "val"))
    levels = [block.get("sigma") for block in blocks.values()]
    for name, block in blocks.items():
        dataset: Any = build_dataset(block, block.pop("where"))
        known = _known_keys(dataset)
        for key in _keys(suite, known, name):
            item = {**dataset[known.index(key)], "key": key}
            images = {row: _restored(job, name, item) for row, job in shown.items()}
            path = folder / f"grid_{key}_{_suffix(block, name, levels)}.png"
            write_sheet(path, draw_grid(suite, images, to_uint8(item["lq"]), to_uint8(item["gt"])))
            written.append(path)
    return written


def draw_grid(suite: Suite, restored: Mapping[str, Image], degraded: Image, clean: Image) -> Sheet:
    """Return the crops of an image under every row, labelled, a few to a line."""
    crop = _checked(suite.grid.crop, clean) if suite.grid.crop else most_detailed(clean, suite.grid.size)
    reference = _cut(clean, crop)
    images = dict(restored)
    if degraded.shape == clean.shape:
        images = {suite.untrained.input or "input": degraded, **images}
    cells = {}
    for name, image in images.items():
        part = _cut(image, crop)
        cells[f"{name} {calculate_psnr(part, reference, crop_border=0):.2f} dB"] = _enlarged(part)
    cells[suite.untrained.clean or "clean"] = _enlarged(reference)
    names = list(cells)
    lines = [names[start : start + _COLUMNS] for start in range(0, len(names), _COLUMNS)]
    return stack_sheets([lay_out({name: cells[name] for name in line}) for line in lines])


def _first_finished(jobs: Sequence[SuiteRun]) -> dict[str, SuiteRun]:
    shown: dict[str, SuiteRun] = {}
    for job in sorted(jobs, key=lambda job: -1 if job.seed is None else job.seed):
        if job.kind == "run" and job.finished():
            shown.setdefault(job.row, job)
    order = dict.fromkeys(job.row for job in jobs)
    return {row: shown[row] for row in order if row in shown}


def _known_keys(dataset: Any) -> list[str]:
    if hasattr(dataset, "keys"):
        return list(dataset.keys)
    items = (dataset[place] for place in range(len(dataset)))
    return [image_keys({name: [value] for name, value in item.items()})[0] for item in items]


def _keys(suite: Suite, known: Sequence[str], test_set: str) -> list[str]:
    if suite.grid.keys is None:
        return sorted(spread(known, suite.grid.count))
    for key in suite.grid.keys:
        if key not in known:
            raise OptionError(f"grid.keys: the test set {test_set} has no image '{key}'{suggest(key, known)}")
    return suite.grid.keys


def _restored(job: SuiteRun, test_set: str, item: Mapping[str, Any]) -> Image:
    """Return the restored image of an item, from the file that an earlier report left, or made now."""
    path = job.out / "results" / f"{job.name}-{job.test_name}" / "grid" / test_set / f"{item['key']}.png"
    if not path.is_file():
        write_png(path, _restore(job, item))
    image = cv2.imread(str(path))
    if image is None:
        raise DataError(f"{path}: no picture; delete it, and the next report makes it again")
    return np.ascontiguousarray(image[..., ::-1])


def _restore(job: SuiteRun, item: Mapping[str, Any]) -> Image:
    options = validate_options(deepcopy(dict(job.test)), is_train=False)
    device = "cuda" if torch.cuda.is_available() and options["num_gpu"] != 0 else "cpu"
    network = build(ARCH_REGISTRY, options["network_g"], "network_g")
    if job.weights is not None:
        load_weights(network, job.weights, options["path"]["param_key_g"], strict=options["path"]["strict_load_g"])
    batch = {key: value[None].to(device) for key, value in item.items() if isinstance(value, torch.Tensor)}
    restored = restore_batch(
        network.eval().to(device), batch, options["val"]["tile"], options["val"]["tile_overlap"], None
    )
    tqdm.write(f"Picture of {job.row}: {item['key']}")
    return to_uint8(restored[0])


def _suffix(block: Mapping[str, Any], name: str, levels: Sequence[float | None]) -> str:
    """Mark that tells a test set from the others: its noise level, or its name where that does not."""
    sigma = block.get("sigma")
    return name if sigma is None or levels.count(sigma) > 1 else f"{sigma:g}"


def _checked(crop: Sequence[int], image: Image) -> Crop:
    y, x, height, width = crop
    if not (height and width and y + height <= image.shape[0] and x + width <= image.shape[1]):
        raise OptionError(
            f"grid.crop: [{y}, {x}, {height}, {width}] (y, x, height, width) is not inside the image of "
            f"{image.shape[0]}x{image.shape[1]} (height x width)"
        )
    return y, x, height, width


def _cut(image: Image, crop: Crop) -> Image:
    y, x, height, width = crop
    return np.ascontiguousarray(image[y : y + height, x : x + width])


def _enlarged(image: Image) -> Image:
    factor = -(-_NARROWEST // image.shape[1])
    return np.repeat(np.repeat(image, factor, 0), factor, 1)
