from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import yaml

from d2sm_plugin.errors import OptionError, ShapeError
from d2sm_plugin.seg.classes import (
    CAMVID,
    CITYSCAPES,
    check_classes_fit,
    class_set_of_checkpoint,
    distinct_colours,
    load_class_set,
)
from d2sm_plugin.seg.overlay import colourise, overlay


def test_known_sets_equal_those_of_mmseg():
    pytest.importorskip("mmseg")
    from mmseg.utils import get_classes, get_palette

    assert list(CITYSCAPES.names) == get_classes("cityscapes")
    assert [list(colour) for colour in CITYSCAPES.palette] == get_palette("cityscapes")
    assert load_class_set("cityscapes") is CITYSCAPES
    assert len(load_class_set("camvid")) == 11
    assert CAMVID.ignore == (11, 255)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.txt", "road\n\nsky\ntree\n"),
        ("c.yml", "- road\n- sky\n- tree\n"),
        ("c.json", '["road", "sky", "tree"]'),
        ("c.yaml", "classes: [road, sky, tree]\nignore: [9]\npalette: [[1, 2, 3], [4, 5, 6], [7, 8, 9]]\n"),
    ],
)
def test_files(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    actual = load_class_set(path)
    assert actual.names == ("road", "sky", "tree")
    assert len(actual.palette) == 3
    assert actual.ignore == ((9, 255) if "ignore" in text else (255,))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"clases": ["a", "b"]}, "unknown key 'clases'; did you mean 'classes'"),
        ({"classes": "a, b"}, "expected a list of class names"),
        ({"classes": ["a", 3]}, "expected a list of class names"),
        (["a"], "expected 2 to 255 classes, found 1"),
        (["a", "b", "a"], "the name 'a' is there twice"),
        ({"classes": ["a", "b"], "palette": [[1, 2, 3]]}, "1 colours for 2 classes"),
        ({"classes": ["a", "b"], "palette": [[1, 2, 3], [1, 2, 300]]}, "'palette' must be"),
        ({"classes": ["a", "b"], "ignore": [300]}, "'ignore' must be"),
        ({"classes": ["a", "b"], "ignore": [1]}, "the ignored value 1 is also that of a class"),
    ],
)
def test_wrong_files(tmp_path, content, words):
    path = tmp_path / "c.yml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(OptionError, match=words):
        load_class_set(path)
    path = tmp_path / "c.json"
    path.write_text(json.dumps(content))
    with pytest.raises(OptionError, match=words):
        load_class_set(path)


def test_unreadable_file_and_unknown_name(tmp_path):
    path = tmp_path / "c.yml"
    path.write_text("a: [")
    with pytest.raises(OptionError, match=r"c\.yml: not valid YAML"):
        load_class_set(path)
    with pytest.raises(OptionError, match="did you mean 'cityscapes'"):
        load_class_set("cityscape")


def test_classes_of_a_checkpoint():
    assert class_set_of_checkpoint([n.title() for n in CAMVID.names], (), "c.pth") is CAMVID
    of_checkpoint = class_set_of_checkpoint(["a", "b"], ((1, 2, 3), (4, 5, 6)), "c.pth")
    assert of_checkpoint.palette == ((1, 2, 3), (4, 5, 6))
    with pytest.raises(OptionError, match="does not say what its classes are"):
        class_set_of_checkpoint((), (), "c.pth")


def test_fit():
    check_classes_fit(CAMVID, 11, [name.upper() for name in CAMVID.names])
    check_classes_fit(CAMVID, 11, [str(i) for i in range(11)])
    with pytest.raises(OptionError, match="has 19"):
        check_classes_fit(CAMVID, 19, ())
    with pytest.raises(OptionError, match="class 0 is 'sky', but 'bicyclist'"):
        check_classes_fit(CAMVID, 11, CAMVID.names[::-1])


def test_default_colours_differ():
    assert len(set(distinct_colours(150))) == 150


def test_overlay_keeps_the_image_where_nothing_counts():
    image = np.full((2, 3, 3), 100, np.uint8)
    label = np.array([[0, 1, 255], [1, 1, 0]], np.uint8)
    palette = ((200, 0, 0), (0, 100, 50))
    flat = colourise(label, palette)
    assert flat[0, 0].tolist() == [200, 0, 0]
    assert flat[0, 2].tolist() == [0, 0, 0]
    mixed = overlay(image, label, palette)
    assert mixed[0, 0].tolist() == [150, 50, 50]
    assert mixed[0, 2].tolist() == [100, 100, 100]
    assert (overlay(image, label, palette, opacity=0) == image).all()
    with pytest.raises(ShapeError, match="differ in size"):
        overlay(image, label[:1], palette)


WITHOUT_MMSEG = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("mmseg", "mmengine", "mmcv"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
import d2sm_plugin.seg
from d2sm_plugin.cli import run_tool
run_tool(lambda argv: d2sm_plugin.seg.build_segmentor("fcn_hr48_4xb2-160k_cityscapes-512x1024", "c.pth"))
"""


def test_without_mmseg_one_line_says_how_to_get_it():
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT_MMSEG], capture_output=True, text=True, check=False, timeout=120
    )
    assert run.returncode == 2
    assert run.stderr.startswith("error: segmentation needs mmseg, which cannot be imported")
    assert run.stderr.strip().endswith('pip install ".[seg]" in a clone of d2sm_plugin')
    assert len(run.stderr.strip().splitlines()) == 1
