"""Surface textures of the generated street scenes: tileable patterns in one image, at several sharpness levels."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np

TILE = 256  # texels along a side of one pattern
LEVELS = 6  # level k is blurred for a footprint of 2**k texels per pixel
_PAD = 2  # texels repeated at the far edge, so that bilinear reading wraps around
_STRIDE = TILE + _PAD
_ATLAS_SEED = 20220731  # the patterns are the same in every scene; scenes differ in where they read them
_GREY = 128.0
_STEP = 40.0  # grey steps per standard deviation


def _octaves(rng: np.random.Generator, cells_x: int, cells_y: int, count: int, falloff: float = 0.55) -> np.ndarray:
    """Fractal value noise of one tile: smooth noise whose cells halve in size from octave to octave."""
    total = np.zeros((TILE, TILE), np.float32)
    for octave in range(count):
        nx, ny = min(cells_x << octave, TILE), min(cells_y << octave, TILE)
        coarse = rng.standard_normal((ny, nx)).astype(np.float32)
        wrapped = np.pad(coarse, 2, mode="wrap")
        scale_y, scale_x = TILE // ny, TILE // nx
        fine = cv2.resize(wrapped, ((nx + 4) * scale_x, (ny + 4) * scale_y), interpolation=cv2.INTER_CUBIC)
        total += falloff**octave * fine[2 * scale_y : 2 * scale_y + TILE, 2 * scale_x : 2 * scale_x + TILE]
    return total


def _grain(rng: np.random.Generator) -> np.ndarray:
    """Asphalt: single stones of random brightness over faint patches."""
    stones = rng.standard_normal((TILE, TILE)).astype(np.float32)
    return stones + 1.5 * _octaves(rng, 32, 32, 2) + 0.5 * _octaves(rng, 4, 4, 2)


def _blocks(rng: np.random.Generator, across: int, rows: int, joint: int, shifted: bool, depth: float) -> np.ndarray:
    """Rectangular blocks with dark joints and one random tone each; ``shifted`` moves every second row by half."""
    width, height = TILE // across, TILE // rows
    y, x = np.mgrid[0:TILE, 0:TILE]
    row = y // height % rows
    x = (x + (row % 2) * (width // 2) * int(shifted)) % TILE
    tones = rng.standard_normal((rows, across)).astype(np.float32)
    blocks = tones[row, x // width % across]
    joints = (y % height < joint) | (x % width < joint)
    return np.where(joints, -depth, blocks) + 0.35 * rng.standard_normal((TILE, TILE)).astype(np.float32)


def _grass(rng: np.random.Generator) -> np.ndarray:
    """Grass and soil: fine streaks over tufts."""
    return _octaves(rng, 64, 32, 3, 0.9) + 0.8 * _octaves(rng, 8, 8, 3)


def _leaves(rng: np.random.Generator) -> np.ndarray:
    """Foliage: bright and dark leaf clusters with hard edges, as sun and shade make them."""
    clusters = _octaves(rng, 16, 16, 2, 0.7)
    leaves = _octaves(rng, 64, 64, 2, 0.8)
    return 0.9 * np.tanh(2.5 * clusters) + 1.1 * np.tanh(2.0 * leaves)


def _stones(rng: np.random.Generator) -> np.ndarray:
    """Rubble masonry: cells of random shape and tone with dark joints."""
    count = 110
    points = rng.uniform(0, TILE, (count, 2)).astype(np.float32)
    tones = rng.standard_normal(count).astype(np.float32)
    y, x = np.mgrid[0:TILE, 0:TILE].astype(np.float32)
    nearest = np.full((TILE, TILE), np.inf, np.float32)
    second, tone = nearest.copy(), np.zeros_like(nearest)
    for (px, py), value in zip(points, tones, strict=True):
        dx, dy = np.abs(x - px), np.abs(y - py)
        distance = np.hypot(np.minimum(dx, TILE - dx), 1.5 * np.minimum(dy, TILE - dy))
        closer = distance < nearest
        second = np.where(closer, nearest, np.minimum(second, distance))
        tone, nearest = np.where(closer, value, tone), np.minimum(nearest, distance)
    return np.where(second - nearest < 3, -2.2, tone) + 0.3 * rng.standard_normal((TILE, TILE)).astype(np.float32)


def _planks(rng: np.random.Generator) -> np.ndarray:
    """Vertical boards: one tone per board, dark gaps, grain along the board."""
    boards = np.repeat(rng.standard_normal(16).astype(np.float32), TILE // 16)[None, :]
    gaps = (np.arange(TILE) % (TILE // 16) < 3)[None, :]
    return np.where(gaps, -2.5, boards) + 0.5 * _octaves(rng, 64, 4, 2)


def _plaster(rng: np.random.Generator) -> np.ndarray:
    """Rendered wall: soft stains, streaks of rain and a little roughness."""
    return _octaves(rng, 4, 4, 4) + 0.6 * _octaves(rng, 32, 2, 2) + 0.25 * _octaves(rng, 128, 128, 1)


#: Pattern makers and their texels per metre.
PATTERNS: dict[str, tuple[Callable[[np.random.Generator], np.ndarray], float]] = {
    "soft": (lambda rng: _octaves(rng, 4, 4, 5), 32.0),
    "patches": (lambda rng: _octaves(rng, 8, 8, 4), 8.0),
    "asphalt": (_grain, 26.0),
    "slabs": (lambda rng: _blocks(rng, 8, 8, 2, True, 2.4), 64.0),
    "cobbles": (lambda rng: _blocks(rng, 16, 16, 3, True, 2.2), 80.0),
    "grass": (_grass, 28.0),
    "leaves": (_leaves, 26.0),
    "bricks": (lambda rng: _blocks(rng, 8, 16, 2, True, 2.0), 90.0),
    "stones": (_stones, 56.0),
    "concrete": (lambda rng: _blocks(rng, 2, 4, 2, False, 3.0) + _octaves(rng, 8, 8, 3), 48.0),
    "planks": (_planks, 96.0),
    "plaster": (_plaster, 28.0),
}
PATTERN_INDEX = {name: index for index, name in enumerate(PATTERNS)}
DENSITIES = np.array([density for _, density in PATTERNS.values()], np.float32)


def _blurred(tile: np.ndarray, level: int) -> np.ndarray:
    if level == 0:
        return tile
    wrapped = np.pad(tile, TILE // 2, mode="wrap")
    blurred = cv2.GaussianBlur(wrapped, (0, 0), 0.45 * 2**level)
    return blurred[TILE // 2 : -TILE // 2, TILE // 2 : -TILE // 2]


@lru_cache(maxsize=1)
def atlas() -> np.ndarray:
    """Return all patterns in one uint8 image: one column of tiles per pattern, one row of tiles per sharpness level."""
    rng = np.random.default_rng(_ATLAS_SEED)
    sheet = np.zeros((LEVELS * _STRIDE, len(PATTERNS) * _STRIDE), np.uint8)
    for column, (make, _) in enumerate(PATTERNS.values()):
        tile = make(rng)
        tile = (tile - tile.mean()) / tile.std()
        for level in range(LEVELS):
            padded = np.pad(_blurred(tile, level), ((0, _PAD), (0, _PAD)), mode="wrap")
            top, left = level * _STRIDE, column * _STRIDE
            sheet[top : top + _STRIDE, left : left + _STRIDE] = np.clip(np.rint(padded * _STEP + _GREY), 0, 255)
    return sheet


def _wrap(texels: np.ndarray) -> np.ndarray:
    """The remainder by TILE; much faster than numpy's."""
    return texels - np.floor(texels * np.float32(1 / TILE)) * TILE


def sample(pattern: np.ndarray, s: np.ndarray, t: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """Read patterns at surface coordinates.

    Args:
        pattern: (H, W) float32, index of the pattern of each pixel (see :data:`PATTERN_INDEX`).
        s: (H, W) float32, first surface coordinate in texels.
        t: (H, W) float32, second one.
        footprint: (H, W) float32, texels that one pixel spans; wide footprints read blurred patterns.

    Returns:
        (H, W) float32, mean 0 and standard deviation 1 over a sharp pattern.
    """
    level = np.clip(np.rint(np.log2(np.maximum(footprint, 1e-3))), 0, LEVELS - 1)
    columns = _wrap(s) + pattern * _STRIDE
    rows = _wrap(t) + level * _STRIDE
    read = cv2.remap(atlas(), columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return (read.astype(np.float32) - _GREY) / _STEP
