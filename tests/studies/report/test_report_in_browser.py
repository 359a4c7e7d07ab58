"""The report in a real browser: its table is there, the boundary moves, and it fits light, dark and a phone."""

from __future__ import annotations

import pytest
from browser import Browser, find_browser
from test_report import suite, training  # noqa: F401  # a fixture

from d2sm_plugin.studies.report.report import report

pytestmark = pytest.mark.skipif(find_browser() is None, reason="needs a browser: apt-get install chromium")
CLIP = "getComputedStyle(document.querySelector('.layer.on-right')).clipPath"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    started = Browser(tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


def test_the_boundary_moves(browser, training, tmp_path):  # noqa: F811
    page = tmp_path / "run.html"
    page.write_text(report(training), encoding="utf-8")
    browser.open(page)
    assert browser.requests() == [page.as_uri()] and browser.complaints() == []
    assert browser.value("document.querySelector('td').innerText") == "2"
    assert browser.value("document.querySelectorAll('svg polyline').length") == 5
    assert browser.value("[...document.images].every(image => image.complete && image.naturalWidth == 96)")
    assert browser.value(CLIP) == "inset(0px 0px 0px 50%)"
    browser.value("document.querySelector('.place').focus()")
    for _ in range(7):
        browser.press("ArrowRight")
    assert browser.value(CLIP) == "inset(0px 0px 0px 57%)"
    assert (
        browser.value("document.querySelector('.place').getAttribute('aria-valuetext')") == "57 % input, 43 % restored"
    )
    browser.press("Home")
    assert browser.value(CLIP) == "inset(0px 0px 0px 0%)"
    browser.value("document.querySelector('.stage').scrollIntoView({block: 'center'})")
    left, top, width, height = browser.value(
        "(({x, y, width, height}) => [x, y, width, height])(document.querySelector('.stage').getBoundingClientRect())"
    )
    middle = top + height / 2
    browser.drag((left + width / 2, middle), (left + width / 4, middle))
    assert browser.value(CLIP) == "inset(0px 0px 0px 25%)"
    assert browser.value("document.querySelector('.place').value") == "25"


def test_the_sides_can_be_chosen(browser, training, tmp_path):  # noqa: F811
    page = tmp_path / "run.html"
    page.write_text(report(training), encoding="utf-8")
    browser.open(page)
    choose = "(() => {{ const box = document.querySelector('select.{}'); box.value = '{}'; "
    choose += "box.dispatchEvent(new Event('input')); return [...document.querySelectorAll('.layer')]"
    choose += ".filter(layer => getComputedStyle(layer).visibility === 'visible').map(layer => layer.innerText) }})()"
    assert browser.value(choose.format("right", "clean")) == ["input", "clean"]
    assert browser.value(choose.format("left", "restored")) == ["restored", "clean"]
    assert browser.value(choose.format("right", "restored")) == ["restored"]
    assert browser.value(CLIP) == "none"


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (360, False), (360, True)])
def test_it_fits_and_can_be_read(browser, tmp_path, width, dark):
    page = tmp_path / "suite.html"
    page.write_text(report(suite(tmp_path / "s")), encoding="utf-8")
    browser.open(page, width, dark=dark)
    assert browser.complaints() == []
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value("document.querySelector('strong').innerText") == "31.0 (1)"
    contrast = """(() => {
        const light = (colour) => {
            const [r, g, b] = colour.match(/[\\d.]+/g).map((part) => part / 255)
                .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const back = (node) => {
            for (; node; node = node.parentElement) {
                const colour = getComputedStyle(node).backgroundColor;
                if (!colour.endsWith(', 0)')) return colour;
            }
            return 'rgb(255, 255, 255)';
        };
        return Math.min(...['h1', '.subtitle', 'caption', 'td', 'a', 'dt', 'small', 'footer p'].map((name) => {
            const node = document.querySelector(name + ':not(.skip)');
            const [low, high] = [light(getComputedStyle(node).color), light(back(node))].sort((a, b) => a - b);
            return (high + 0.05) / (low + 0.05);
        }));
    })()"""
    assert browser.value(contrast) >= 4.5  # what the Web Content Accessibility Guidelines 2.2 ask of text
    assert browser.value("getComputedStyle(document.body).backgroundColor") == (
        "rgb(17, 21, 28)" if dark else "rgb(246, 247, 249)"
    )
