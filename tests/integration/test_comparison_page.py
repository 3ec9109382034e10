"""The page of a comparison works in a browser, offline."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from anomalib_stfpm.comparison import report
from anomalib_stfpm.comparison.predictions import FALSE_ALARMS, HITS, MISSES
from tests.unit.comparison.records import compared

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [pytest.mark.integration, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]

ACCURACIES = {"A": [0.85, 0.87], "B": [0.95, 0.93], "C": [0.7, 0.7]}
WIDE, NARROW = {"width": 1400, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture
def address(tmp_path: Path) -> str:
    report.write(tmp_path, compared(tmp_path, ACCURACIES, {"A": 20, "B": 10.5, "C": 100}))
    return (tmp_path / "comparison.html").as_uri()


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_it_opens_without_a_request_or_an_error(viewport: dict[str, int], browser: Any, address: str) -> None:  # noqa: ANN401
    page = browser.new_page(viewport=viewport)
    requests: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    assert errors == []
    assert [url for url in requests if url != address and not url.startswith("data:")] == []
    images = page.evaluate("[...document.images].map(image => image.complete && image.naturalWidth)")
    assert images == [8] * (3 * 2 * 2)  # of three models a hit and a miss, each with its heat map
    assert page.locator("svg").count() == 4
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.close()


def test_the_table_is_sorted_by_a_click(browser: Any, address: str) -> None:  # noqa: ANN401
    page = browser.new_page()
    page.goto(address)
    heading = page.get_by_role("button", name="image_AUROC")
    models = page.locator("tbody td:first-child")
    assert models.all_text_contents() == ["A", "B", "C"]
    heading.click()
    assert models.all_text_contents() == ["C", "A", "B"]
    heading.click()
    assert models.all_text_contents() == ["B", "A", "C"]
    page.get_by_role("button", name="f32, ms").click()
    assert models.all_text_contents() == ["B", "A", "C"]  # by number: 10.5, 20, 100
    page.close()


@pytest.mark.parametrize("viewport", [{"width": 700, "height": 900}, NARROW], ids=["medium", "narrow"])
def test_columns_beyond_the_right_edge_are_counted_until_they_are_in_sight(
    viewport: dict[str, int],
    browser: Any,  # noqa: ANN401
    address: str,
) -> None:
    page = browser.new_page(viewport=viewport)
    page.goto(address)
    hint, table = page.locator(".more"), page.locator(".wide")
    playwright.expect(hint).to_have_text(re.compile(r"^\d+ more columns: scroll →$"))
    assert hint.is_visible()
    beyond = "heading => heading.getBoundingClientRect().right > document.body.getBoundingClientRect().right - 15"
    assert int(hint.text_content().split()[0]) == page.evaluate(
        f"[...document.querySelectorAll('th')].filter({beyond}).length"
    )
    table.evaluate("table => table.scrollTo({left: table.scrollWidth})")
    playwright.expect(hint).to_have_text("")
    page.close()


def test_what_the_model_has_wrong_is_marked(browser: Any, tmp_path: Path) -> None:  # noqa: ANN401
    record = compared(tmp_path, {"A": [0.85]}, {"A": 20})
    (run, *_) = record["categories"]["part"]["runs"]
    found, missed = ({**run["images"][MISSES][0], "is_anomalous": is_anomalous} for is_anomalous in (True, False))
    run["images"] = {HITS: [found], MISSES: [missed, found], FALSE_ALARMS: [found, missed]}
    report.write(tmp_path, record)
    page = browser.new_page()
    page.goto((tmp_path / "comparison.html").as_uri())
    said = page.locator("figcaption", has_text="bad/<0>.png").all_text_contents()
    assert [one.rpartition(", ")[2] for one in said] == ["found", "missed", "found", "false alarm", "taken for good"]
    assert page.locator(".wrong mark").all_text_contents() == ["missed", "false alarm"]
    assert page.locator("p", has_text="scores").all_text_contents()[-4:-1] == [
        "Defects with the highest scores", "Defects with the lowest scores", "Good images with the highest scores",
    ]  # fmt: skip
    page.close()


def test_it_follows_the_colour_scheme_of_the_browser(browser: Any, address: str) -> None:  # noqa: ANN401
    colours = {}
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(address)
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        text = page.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
        colours[scheme] = (background, text)
        page.close()
    assert colours["light"] == ("rgb(255, 255, 255)", "rgb(26, 26, 26)")
    assert colours["dark"] == ("rgb(22, 24, 28)", "rgb(230, 230, 230)")


def test_it_is_printed_on_white_and_fits_the_paper(browser: Any, address: str) -> None:  # noqa: ANN401
    page = browser.new_page(viewport={"width": 794, "height": 1123}, color_scheme="dark")
    page.emulate_media(media="print")
    page.goto(address)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("document.querySelector('table').scrollWidth <= innerWidth")
    page.close()
