"""Small drawn faces with landmarks for the tests."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from skimage import io

from d2sm_plugin.faces.landmarks import HELEN29, POINT_SETS

#: Mean of the 29 points in units of the distance between the eyes, whose middle is the origin.
SHAPE = np.array([
    [-0.86, -0.2], [0.86, -0.2], [-0.24, -0.2], [0.24, -0.2], [-0.56, -0.33], [-0.56, -0.23], [0.56, -0.33],
    [0.56, -0.23], [-0.72, 0.02], [0.72, 0.02], [-0.3, 0.03], [0.3, 0.03], [-0.5, -0.07], [-0.5, 0.08], [0.5, -0.07],
    [0.5, 0.08], [-0.5, 0.0], [0.5, 0.0], [-0.29, 0.63], [0.29, 0.63], [0.0, 0.57], [0.0, 0.75], [-0.44, 1.06],
    [0.44, 1.06], [0.0, 0.96], [0.0, 1.06], [0.0, 1.15], [0.0, 1.3], [0.0, 1.79],
])  # fmt: skip


def drawn_face(seed: int, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A face of ellipses on a coloured background, and its 29 landmarks."""
    rng = np.random.default_rng(seed)
    unit = size * rng.uniform(0.34, 0.4)
    points = SHAPE * unit + [size * rng.uniform(0.47, 0.53), size * rng.uniform(0.3, 0.34)]
    coarse = rng.integers(0, 90, (5, 5, 3)).astype(np.uint8)
    face = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    centre = points.mean(axis=0)
    cv2.ellipse(face, (tuple(centre), (2 * unit, 2.6 * unit), 0), (220, 170, 140), -1)
    for eye in (16, 17):
        cv2.ellipse(face, (tuple(points[eye]), (0.4 * unit, 0.2 * unit), 0), (250, 250, 250), -1)
        cv2.circle(face, tuple(points[eye].round().astype(int)), max(1, round(0.08 * unit)), (20, 20, 60), -1)
    mouth = points[[22, 23]].mean(axis=0)
    cv2.ellipse(face, (tuple(mouth), (0.88 * unit, 0.25 * unit), 0), (180, 30, 40), -1)
    return face, points


def landmark_csv(path: Path, rows: dict[str, np.ndarray], splits: dict[str, str] | None = None) -> Path:
    count = len(next(iter(rows.values())))
    header = ["image", *(["split"] if splits else []), *(f"{a}{n}" for n in range(count) for a in "xy")]
    lines = [",".join(header)]
    for name, points in rows.items():
        lines.append(",".join([name, *([splits[name]] if splits else []), *(f"{v:.4f}" for v in points.flatten())]))
    path.write_text("\n".join(lines) + "\n")
    return path


def face_folder(root: Path, count: int = 4, size: int = 64, points: str = "helen29") -> tuple[Path, Path]:
    """Folder of drawn faces and the table of their landmarks; those of other sets than helen29 lie anywhere."""
    rows = {}
    for number in range(count):
        face, rows[f"face_{number}"] = drawn_face(number, size)
        if points != HELEN29.name:
            anywhere = np.random.default_rng(number).uniform(0.2, 0.8, (POINT_SETS[points].count, 2))
            rows[f"face_{number}"] = anywhere * size
        root.mkdir(parents=True, exist_ok=True)
        io.imsave(root / f"face_{number}.png", face, check_contrast=False)
    return root, landmark_csv(root.with_suffix(".csv"), rows)
