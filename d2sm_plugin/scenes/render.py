"""From a canvas of surface numbers to colours, labels and depths."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from d2sm_plugin.scenes.canvas import SUPERSAMPLING, Camera, Canvas, Label
from d2sm_plugin.scenes.textures import DENSITIES, PATTERN_INDEX, sample

SKY_DEPTH = 1000.0  # metres, also the largest depth of anything else
_STAIN_DENSITY = 8.0  # texels per metre of the coarse pattern


@dataclass(frozen=True)
class Weather:
    """Sky, air and camera of one scene.

    Attributes:
        zenith: linear RGB of the sky above.
        haze: linear RGB of the sky at the horizon, which far things fade into.
        visibility: metres at which things have faded to 37 %.
        clouds: share of the sky under clouds, 0 to 1.
        cloud: linear RGB of the clouds.
        shadow: brightness of shaded ground relative to lit ground.
        gain: RGB gains of exposure and white balance.
        gamma: exponent from linear to stored values.
        blur: standard deviation of the lens blur in image pixels.
    """

    zenith: np.ndarray
    haze: np.ndarray
    visibility: float
    clouds: float
    cloud: np.ndarray
    shadow: float
    gain: np.ndarray
    gamma: float
    blur: float


def _rays(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Columns (1, W) and rows (H, 1) of pixel centres."""
    columns = np.arange(camera.width, dtype=np.float32)[None, :] + 0.5
    rows = np.arange(camera.height, dtype=np.float32)[:, None] + 0.5
    return columns, rows


def depth_map(canvas: Canvas) -> np.ndarray:
    """Depth along z of every canvas pixel: (H, W) float32, metres in (0, :data:`SKY_DEPTH`]."""
    planes = np.array([(0.0, 0.0, 1 / SKY_DEPTH)] + [s.inverse_depth for s in canvas.surfaces], np.float32)
    columns, rows = _rays(canvas.camera)
    a, b, c = (np.ascontiguousarray(planes[:, k]).take(canvas.numbers) for k in range(3))
    return 1.0 / np.maximum(a * columns + b * rows + c, 1 / SKY_DEPTH)


def _texture(canvas: Canvas, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fine texture times contrast, and coarse stains times their strength, of every pixel."""
    camera, numbers, surfaces = canvas.camera, canvas.numbers, canvas.surfaces
    columns, rows = _rays(camera)
    kind = np.array([0] + [PATTERN_INDEX[s.paint.texture] for s in surfaces])
    table = np.zeros((6, len(surfaces) + 1), np.float32)
    table[0], table[1] = kind, DENSITIES[kind]
    table[2, 1:] = [s.paint.contrast for s in surfaces]
    table[3, 1:] = [s.paint.stains for s in surfaces]
    table[4:, 1:] = np.array([s.offset for s in surfaces], np.float32).reshape(-1, 2).T
    pattern, density, contrast, stains, offset_s, offset_t = (row.take(numbers) for row in table)
    ground = np.array([False] + [s.ground for s in surfaces]).take(numbers)

    metres = depth * np.float32(1 / camera.focal)
    x = (columns - camera.centre) * metres
    y = camera.elevation - (rows - camera.horizon) * metres
    s = np.where(ground, x, x + depth)
    t = np.where(ground, depth, y)
    stretch = np.where(ground, np.sqrt(np.maximum(depth / camera.elevation, 1.0)), 1.0)
    fine = sample(pattern, s * density + offset_s, t * density + offset_t, metres * stretch * density) * contrast
    coarse_pattern = np.full_like(pattern[::SUPERSAMPLING, ::SUPERSAMPLING], PATTERN_INDEX["patches"])
    half = np.s_[::SUPERSAMPLING, ::SUPERSAMPLING]  # stains are coarse enough for every other pixel
    s, t, footprint = (value[half] * np.float32(_STAIN_DENSITY) for value in (s, t, metres * stretch))
    coarse = sample(coarse_pattern, s + offset_t[half], t + offset_s[half], footprint)
    coarse = cv2.resize(coarse, (camera.width, camera.height), interpolation=cv2.INTER_NEAREST)
    return fine, coarse * stains


def _sky(camera: Camera, weather: Weather, drift: np.ndarray) -> np.ndarray:
    """Gradient and clouds: (H, W, 3) float32, worked out at a quarter of the resolution."""
    height, width = -(-camera.height // 4), -(-camera.width // 4)
    columns = (np.arange(width, dtype=np.float32)[None, :] + 0.5) * 4 - camera.centre
    rows = np.maximum(camera.horizon - (np.arange(height, dtype=np.float32)[:, None] + 0.5) * 4, 0.0)
    rise = (rows / camera.focal) * np.ones_like(columns)
    share = np.clip(rise * 2.2, 0, 1)[..., None] ** 0.6
    sky = weather.haze + (weather.zenith - weather.haze) * share
    ceiling = 30.0 / (rise + 0.12)  # texels to the cloud layer along the ray
    s, t = columns / camera.focal * ceiling + drift[0], ceiling * np.float32(1.5) + drift[1]
    pattern = np.full_like(rise, PATTERN_INDEX["patches"])
    noise = sample(pattern, s, t, np.ones_like(rise))
    threshold = 2.2 - 4.0 * weather.clouds
    cover = np.clip((noise - threshold) * 0.8, 0, 1)[..., None] * np.clip(rise * 8 + 0.2, 0, 1)[..., None]
    lit = weather.cloud * (0.94 + 0.05 * noise[..., None])
    sky = sky + (lit - sky) * cover * 0.9
    return cv2.resize(sky.astype(np.float32), (camera.width, camera.height), interpolation=cv2.INTER_LINEAR)


def _colours(canvas: Canvas, weather: Weather, depth: np.ndarray, drift: np.ndarray) -> np.ndarray:
    """Linear RGB of every canvas pixel."""
    numbers, surfaces = canvas.numbers, canvas.surfaces
    base = np.zeros((len(surfaces) + 1, 3), np.float32)
    tint = np.zeros_like(base)
    base[1:] = np.array([s.paint.colour for s in surfaces]) * np.array([[s.light] for s in surfaces])
    tint[1:] = [s.paint.tint for s in surfaces]
    ground = np.array([False] + [s.ground for s in surfaces]).take(numbers)
    shade = cv2.GaussianBlur(canvas.shade, (0, 0), 1.5 * SUPERSAMPLING).astype(np.float32) * (1 / 255)
    light = 1.0 - (1.0 - weather.shadow) * shade * ground
    fine, coarse = _texture(canvas, depth)
    clear = np.exp(-depth / np.float32(weather.visibility))
    clear[numbers == 0] = 0.0
    image = base.take(numbers, axis=0)
    image *= (1.0 + fine[..., None] * tint.take(numbers, axis=0)) * (light * (1.0 + coarse) * clear)[..., None]
    fade = (1.0 - clear)[..., None] * weather.haze.astype(np.float32)
    sky = numbers == 0
    if sky.any():
        last = int(np.flatnonzero(sky.any(axis=1))[-1]) + 1
        fade[:last][sky[:last]] = _sky(canvas.camera, weather, drift)[:last][sky[:last]]
    return image + fade


def render(
    canvas: Canvas, weather: Weather, size: tuple[int, int], drift: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn a canvas into an image with its labels and depths.

    The image is averaged over the canvas pixels of each image pixel; label and depth are those of one of them, so they
    stay exact.

    Args:
        canvas: drawn at :data:`~d2sm_plugin.scenes.canvas.SUPERSAMPLING` times the image size.
        weather: light and air.
        size: height and width of the image.
        drift: two texel offsets of the clouds.

    Returns:
        image uint8 (H, W, 3) RGB, label uint8 (H, W), depth float32 (H, W) in metres.
    """
    height, width = size
    depth = depth_map(canvas)
    linear = _colours(canvas, weather, depth, drift.astype(np.float32))
    linear = cv2.resize(linear, (width, height), interpolation=cv2.INTER_AREA)
    linear = cv2.GaussianBlur(linear, (0, 0), weather.blur) * weather.gain.astype(np.float32)
    image = np.rint(np.clip(linear, 0, 1) ** np.float32(1 / weather.gamma) * 255).astype(np.uint8)
    labels = np.array([Label.SKY] + [s.paint.label for s in canvas.surfaces], np.uint8)
    exact = np.s_[::SUPERSAMPLING, ::SUPERSAMPLING]
    return image, labels.take(canvas.numbers[exact]), np.ascontiguousarray(depth[exact])
