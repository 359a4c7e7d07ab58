"""Texts that would take the reader's time, memory or stack, and values that YAML 1.1 reads otherwise than people."""

from __future__ import annotations

import tracemalloc

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from d2sm_plugin.errors import OptionError
from d2sm_plugin.safe_yaml import MAX_BYTES, parse_yaml, read_yaml

BILLION_LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
MERGE_BOMB = "a0: &a0 {x: 1, y: 2}\n" + "".join(
    f"a{n}: &a{n} {{k{n}: 1, <<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BILLION_LAUGHS, r"line \d+: more than 50,000 values, counting what aliases"),
        (MERGE_BOMB, r"more than 50,000 values"),
        ("[" * 300 + "]" * 300, "line 1: more than 39 blocks within each other"),
        ("\n".join(" " * depth + "a:" for depth in range(300)), "line 40: more than 39 blocks within each other"),
        ("? " * 300 + "a", "more than 39 blocks within each other"),
        ("a: &a [1, *a]", r"line 1: '\*a' stands inside the block that it names"),
        ("a: &a {<<: *a}", r"line 1: '\*a' stands inside the block that it names"),
        ("a: 1\nb: " + "9" * 5000, "line 2: an integer of 5000 digits is more than 64 bits hold"),
        ("a: 9223372036854775808", "more than 64 bits hold"),
        ("a: !!timestamp x", "no tags that build objects"),
        ("a: !!binary eA==", "no tags that build objects"),
        ("a: !!set {x, y}", "no tags that build objects"),
        ("a: !!float x", "not valid YAML"),
        ("a: !!bool x", "not valid YAML"),
        ("a: !!map [1]", "expected a mapping node"),
        ("a: {<<: 5}", "expected a mapping or list of mappings for merging"),
        ("{[a]: b}", "found unhashable key"),
        ('a: "\\ud800"', "half of a surrogate pair"),
        ("a: *nobody", "undefined alias"),
        ("1: a\n1: b", "line 2: the key 1 is given twice"),
        ("true: a\nTrue: b", "line 2: the key True is given twice"),
        ("a: {<<: {b: 1}, <<: {c: 1}}", "the key '<<' is given twice"),
        ("#" * (MAX_BYTES + 1), "longer than 256 KiB"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
    ],
)  # fmt: skip
def test_texts_that_are_refused(text, message):
    tracemalloc.start()
    with pytest.raises(OptionError, match=message):
        parse_yaml(text, "test.yml")
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", "010"), ("1:30", "1:30"), ("2024-13-45", "2024-13-45"), ("2024-01-31", "2024-01-31"), ("0x10", "0x10"),
        ("0", 0), ("-0", 0), ("1_000", 1000), ("9223372036854775807", 2**63 - 1), ("0.5", 0.5), ("007.5", 7.5),
    ],
)  # fmt: skip
def test_values_are_what_their_writer_means(text, value):
    assert parse_yaml(text, "test") == value
    assert type(parse_yaml(text, "test")) is type(value)


def test_merge_keys():
    text = "base: &base {type: Adam, lr: 1e-3, betas: [0.9, 0.99]}\nother: &other {eps: 1e-8}\n"
    assert parse_yaml(text + "a: {<<: *base, lr: 1e-4}", "t")["a"] == {"type": "Adam", "lr": 1e-4, "betas": [0.9, 0.99]}
    assert parse_yaml(text + "a: {<<: [*base, *other]}", "t")["a"]["eps"] == 1e-8
    assert parse_yaml(text + "a: *base", "t")["a"] == parse_yaml(text, "t")["base"]


def test_files(tmp_path):
    (tmp_path / "long.yml").write_bytes("é".encode() * (1 << 17) + b"x")
    (tmp_path / "utf16.yml").write_bytes("a: 1".encode("utf-16"))
    (tmp_path / "bom.yml").write_bytes(b"\xef\xbb\xbfa: 1")
    for name, message in (("long.yml", "longer than"), ("utf16.yml", "cannot be read"), (".", "cannot be read")):
        with pytest.raises(OptionError, match=message):
            read_yaml(tmp_path / name)
    assert read_yaml(tmp_path / "bom.yml") == {"a": 1}


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc<_ é", max_size=4), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(plain)
@settings(max_examples=60)
def test_what_is_dumped_is_read_back(value):
    assert parse_yaml(yaml.safe_dump(value, allow_unicode=True), "test") == value


@given(st.text("ab1-:{}[]&*<!?|>'\"%@#, \n\t~.e", max_size=60))
@settings(max_examples=300)
def test_any_text_is_read_or_refused_in_one_line(text):
    try:
        parse_yaml(text, "test")
    except OptionError as error:
        assert str(error).startswith("test: ")
        assert "\n" not in str(error)
