from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from d2sm_plugin.errors import DataError
from d2sm_plugin.scenes.canvas import Camera, Canvas, Label, Paint, clip_near, unit_normal
from d2sm_plugin.scenes.render import SKY_DEPTH, depth_map
from d2sm_plugin.scenes.street_scenes import SEGMENTOR_SEEDS, TRAIN_SEEDS, VAL_SEEDS, render_scene
from d2sm_plugin.scenes.textures import PATTERN_INDEX, PATTERNS, TILE, sample

SIZE = (96, 192)


@pytest.fixture(scope="module")
def scenes():
    return [render_scene(seed, SIZE) for seed in range(40)]


def test_equal_seeds_give_equal_scenes_and_other_seeds_others():
    first, second, other = render_scene(7, SIZE), render_scene(7, SIZE), render_scene(8, SIZE)
    for name in ("image", "label", "depth"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
        assert not np.array_equal(getattr(first, name), getattr(other, name))


def test_no_global_generator_is_used():
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    before = render_scene(3, SIZE)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    after = render_scene(3, SIZE)
    random.setstate(states[0])
    assert np.array_equal(before.image, after.image)
    np.random.seed(5)
    kept = np.random.get_state()[1].copy()
    state, torch_state = random.getstate(), torch.get_rng_state()
    render_scene(4, SIZE)
    assert np.array_equal(np.random.get_state()[1], kept)
    assert random.getstate() == state
    assert torch.equal(torch.get_rng_state(), torch_state)


@pytest.mark.parametrize("size", [(192, 384), (97, 181), (64, 64), (33, 257), (16, 16), (120, 61)])
def test_sizes_and_types(size):
    scene = render_scene(11, size)
    assert scene.image.shape == (*size, 3)
    assert scene.image.dtype == np.uint8
    assert scene.label.shape == size
    assert scene.label.dtype == np.uint8
    assert scene.depth.shape == size
    assert scene.depth.dtype == np.float32
    assert scene.image.flags.c_contiguous
    assert scene.label.flags.c_contiguous


def test_labels_are_train_ids_and_all_classes_occur(scenes):
    values = set(np.unique([scene.label for scene in scenes]).tolist())
    assert values == {*range(19), 255}


def test_every_scene_is_a_street(scenes):
    for scene in scenes:
        shares = np.bincount(scene.label.ravel(), minlength=256) / scene.label.size
        assert shares[Label.ROAD] > 0.05
        assert shares[Label.IGNORE] < 0.05
        assert len(np.flatnonzero(shares)) >= 8
        assert 25 < scene.image.mean() < 235
        assert scene.image.std() > 15


def test_classes_are_balanced_enough_to_learn(scenes):
    labels = np.stack([scene.label for scene in scenes])
    pixels = np.bincount(labels.ravel(), minlength=256) / labels.size
    occurs = [np.mean([(label == k).any() for label in labels]) for k in range(19)]
    assert pixels[: Label.BICYCLE + 1].min() > 0.001
    assert pixels.max() < 0.45
    assert min(occurs) >= 0.2


def test_depth_is_positive_and_sky_is_far(scenes):
    for scene in scenes:
        assert scene.depth.min() > 0.5
        assert scene.depth.max() <= SKY_DEPTH * 1.001  # the reciprocal of a float32
        sky = scene.label == Label.SKY
        assert np.allclose(scene.depth[sky], SKY_DEPTH, rtol=1e-3)
        assert scene.depth[scene.label == Label.CAR].max(initial=0) < 250


def test_road_depth_grows_towards_the_horizon_as_a_plane(scenes):
    for scene in scenes:
        rows = np.arange(scene.label.shape[0], dtype=np.float64)
        road = scene.label == Label.ROAD
        by_row = [(row, scene.depth[int(row)][road[int(row)]]) for row in rows if road[int(row)].any()]
        medians = np.array([np.median(values) for _, values in by_row])
        assert (np.diff(medians) < 0).all()
        row = np.array([row for row, _ in by_row])
        fit = np.polyfit(row, 1 / medians, 1)  # inverse depth of a plane is linear over the picture
        assert np.abs(np.polyval(fit, row) - 1 / medians).max() < 2e-3
        flat = np.concatenate([np.abs(1 / values - 1 / np.median(values)) for _, values in by_row])
        assert np.quantile(flat, 0.99) < 1e-3


def test_label_edges_are_exact_and_the_picture_follows_them(scenes):
    """Colour changes more across label edges than elsewhere; at a shift of a few pixels it does not."""
    on, off = [], []
    for scene in scenes:
        grey = scene.image.astype(np.float32).mean(axis=2)
        change = np.abs(np.diff(grey, axis=1))
        edges = np.diff(scene.label.astype(int), axis=1) != 0
        on.append(change[edges].mean())
        off.append(change[np.roll(edges, 4, axis=1) & ~edges].mean())
    assert np.mean(on) > 2 * np.mean(off)


def test_seed_ranges_do_not_overlap():
    ranges = (SEGMENTOR_SEEDS, TRAIN_SEEDS, VAL_SEEDS)
    for index, first in enumerate(ranges):
        for second in ranges[index + 1 :]:
            assert first.stop <= second.start or second.stop <= first.start


@pytest.mark.parametrize(
    ("seed", "size", "named"), [(-1, SIZE, "seed of 0"), (0, (8, 192), "8x192"), (0, (96, 4), "96x4")]
)
def test_bad_requests_are_named(seed, size, named):
    with pytest.raises(DataError, match=named):
        render_scene(seed, size)


# --- the canvas ---


@pytest.fixture
def canvas():
    camera = Camera(200, 100, 120.0, 100.0, 50.0, 1.5)
    return Canvas(camera, np.array((0.3, 0.8, -0.52)), 0.6, np.random.default_rng(0))


def test_depth_of_a_plane_equals_ray_casting(canvas):
    corners = np.array(((-4.0, 0.0, 6.0), (5.0, 0.0, 14.0), (5.0, 6.0, 14.0), (-4.0, 6.0, 6.0)))
    canvas.polygon(corners, Paint(Label.WALL, (0.5, 0.5, 0.5)))
    depth = depth_map(canvas)
    normal = np.cross(corners[1] - corners[0], corners[3] - corners[0])
    eye = np.array((0.0, 1.5, 0.0))
    rows, columns = np.nonzero(canvas.numbers)
    assert len(rows) > 1000
    ray = np.stack(((columns + 0.5 - 100) / 120, -(rows + 0.5 - 50) / 120, np.ones(len(rows))), axis=1)
    expected = (normal @ (corners[0] - eye)) / (ray @ normal)
    np.testing.assert_allclose(depth[rows, columns], expected, rtol=1e-4)


def test_projection_and_filling_agree(canvas):
    """A rectangle at depth 12 covers the pixels whose centres it covers, up to the outline that OpenCV adds."""
    canvas.upright(1.0, 12.0, np.array(((-2.0, 0.0), (2.0, 0.0), (2.0, 3.0), (-2.0, 3.0))), Paint(Label.CAR, (1, 0, 0)))
    rows, columns = np.nonzero(canvas.numbers)
    assert abs(columns.min() - (100 + 10 * -1.0)) <= 1
    assert abs(columns.max() + 1 - (100 + 10 * 3.0)) <= 1
    assert abs(rows.min() - (50 - 10 * 1.5)) <= 1
    assert abs(rows.max() + 1 - (50 + 10 * 1.5)) <= 1


def test_polygons_reaching_behind_the_camera_are_cut():
    triangle = np.array(((0.0, 0.0, -5.0), (2.0, 0.0, 5.0), (-2.0, 0.0, 5.0)))
    cut = clip_near(triangle)
    assert len(cut) == 4
    assert cut[:, 2].min() > 0.5
    away = np.array((0.0, 0.0, 20.0))
    assert len(clip_near(triangle - away)) == 0
    np.testing.assert_array_equal(clip_near(triangle + away), triangle + away)


def test_planes_seen_edge_on_are_left_out(canvas):
    canvas.polygon(np.array(((0.0, 0.0, 5.0), (0.0, 3.0, 5.0), (0.0, 3.0, 9.0))), Paint(Label.WALL, (0.5, 0.5, 0.5)))
    assert not canvas.numbers.any()
    assert unit_normal(np.zeros((4, 3))) is None


@pytest.mark.parametrize("name", list(PATTERNS))
def test_patterns_tile_and_are_standardised(name):
    across, down = (grid.astype(np.float32) for grid in np.meshgrid(np.arange(TILE), np.arange(TILE)))
    pattern = np.full_like(across, PATTERN_INDEX[name])
    sharp = sample(pattern, across, down, np.ones_like(across))
    assert abs(sharp.mean()) < 0.05
    assert 0.9 < sharp.std() < 1.05
    shifted = sample(pattern, across + TILE, down - 3 * TILE, np.ones_like(across))
    np.testing.assert_allclose(shifted, sharp, atol=0.03)
    between = sample(
        pattern[:1, :1],
        np.full((1, 1), TILE - 0.5, np.float32),
        np.zeros((1, 1), np.float32),
        np.ones((1, 1), np.float32),
    )
    pair = sharp[0, -1] / 2 + sharp[0, 0] / 2
    assert abs(float(between[0, 0]) - pair) < 0.05
    assert sample(pattern, across, down, np.full_like(across, 16.0)).std() < sharp.std()
