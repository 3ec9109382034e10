"""The gallery works in a browser, from a file and at any width."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomalib_stfpm_deploy import files
from anomalib_stfpm_deploy.infer import verb
from anomalib_stfpm_deploy.infer.gallery import THUMBNAILS, thumbnail, write_gallery
from anomalib_stfpm_deploy.results import Result
from anomalib_stfpm_deploy.thresholds import Thresholds
from tests.conftest import write_image

pytestmark = pytest.mark.integration

WIDE, NARROW = {"width": 1400, "height": 900}, {"width": 400, "height": 800}
NAMES = [
    "a plain name.png",
    "folder/same.png",
    "other folder/same.png",
    "'single' and \"double\".png",
    "<script>alert(1)</script>.png",
    "<img src=x onerror=alert(1)>.png",
    "#hash?query&amp;%41%2F.png",
    "Größe 10 µm.png",
    "деталь №7.png",
    "部品 42.png",
    "جزء.png",
    "back\\slash.png",
    "line\nbreak.png",
    "long" * 50 + ".png",
]


@contextmanager
def opened(browser: Any, folder: Path, viewport: dict[str, int] = WIDE) -> Iterator[Any]:  # noqa: ANN401
    """Open the gallery of a folder, and assert that nothing has gone wrong when it is closed."""
    page = browser.new_page(viewport=viewport)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    page.on("requestfailed", lambda request: wrong.append(request.url))
    page.on("request", lambda one: None if one.url.startswith(("file:", "data:")) else wrong.append(one.url))
    page.goto((folder / "gallery.html").as_uri())
    yield page
    assert wrong == []
    page.close()


def names(page: Any) -> list[str]:  # noqa: ANN401
    found: list[str] = page.locator("#images li p:first-of-type").all_text_contents()
    return found


@pytest.fixture(scope="module")
def inferred(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``infer`` has written for images with names of all kinds, one of which cannot be read."""
    folder = tmp_path_factory.mktemp("inferred")
    for seed, name in enumerate(NAMES):
        write_image(folder / "images" / name, seed, defect=seed % 3 == 0)
    (folder / "images" / "empty.png").touch()
    arguments = ["--model", exported, "--input", folder / "images", "--output", folder / "output"]
    assert verb.main([str(one) for one in arguments]) == 1
    return folder / "output"


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_every_image_is_shown_with_heat_map_score_and_verdict_worst_first(
    viewport: dict[str, int],
    inferred: Path,
    browser: Any,  # noqa: ANN401
) -> None:
    results = json.loads((inferred / "results.json").read_text(encoding="utf-8"))["results"]
    readable = sorted((one for one in results if one["score"] is not None), key=lambda one: -one["score"])
    with opened(browser, inferred, viewport) as page:
        assert sorted(names(page)) == sorted([*NAMES, "empty.png"])
        said = page.locator("#images .verdict").all_text_contents()
        label = {True: "anomalous", False: "normal"}
        scores = [(label[one["is_anomalous"]], one["score"]) for one in readable]
        shown = [(verdict, float(score)) for verdict, score in map(str.split, said[:-1])]
        assert shown == [(verdict, pytest.approx(score, rel=5e-3)) for verdict, score in scores]
        assert (names(page)[-1], said[-1]) == ("empty.png", "unreadable")
        assert page.get_by_text("it is empty").is_visible()
        for image in page.locator("#images img").all():
            image.scroll_into_view_if_needed()
        page.wait_for_function("[...document.images].every(image => image.complete)")
        assert page.evaluate("[...document.images].map(image => image.naturalWidth)") == [128] * len(NAMES)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_pictures_open_by_a_click(inferred: Path, browser: Any) -> None:  # noqa: ANN401
    with opened(browser, inferred) as page:
        for number in range(len(NAMES)):
            for link in page.locator("#images li").nth(number).locator("a").all():
                address = link.evaluate("link => link.href")
                other = browser.new_page()
                other.goto(address)
                assert other.evaluate("document.images[0].naturalWidth") == 64
                other.close()


def test_verdict_and_folder_filter(inferred: Path, browser: Any) -> None:  # noqa: ANN401
    results = json.loads((inferred / "results.json").read_text(encoding="utf-8"))["results"]
    with opened(browser, inferred) as page:
        page.get_by_label("Folder").select_option(label="other folder (1)")
        assert names(page) == ["other folder/same.png"]
        page.get_by_label("Folder").select_option(label=f"all ({len(results)})")
        for label in {one["is_anomalous"] for one in results}:
            wanted = {one["picture"] for one in results if one["is_anomalous"] is label}
            page.get_by_label("Verdict").select_option({True: "anomalous", False: "normal", None: "unreadable"}[label])
            assert set(names(page)) == wanted
        page.get_by_label("Folder").select_option(label="folder (1)")
        assert names(page) == []


def test_ten_thousand_images_are_paged_through(tmp_path: Path, browser: Any) -> None:  # noqa: ANN401
    picture = thumbnail(np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64, 3), np.uint8))
    results = []
    for number in range(10_000):
        name = f"{number % 7}/{number}.png"
        picture_names = name, name, f"{THUMBNAILS}/{name}.jpg"
        results.append(Result(name, "1 2", number / 10_000, number >= 9_000, *picture_names, width=64, height=64))
        if number >= 9_500 or number < 100:
            files.write_bytes(tmp_path / THUMBNAILS / f"{name}.jpg", picture, durable=False)
    write_gallery(tmp_path, results, Thresholds(0.9, 0.5))
    assert (tmp_path / "gallery.html").stat().st_size < 3e6
    with opened(browser, tmp_path, NARROW) as page:
        assert names(page)[0] == "3/9999.png"
        assert len(names(page)) == 60
        assert page.get_by_text("of 167").is_visible()
        assert page.get_by_role("button", name="Previous").is_disabled()
        page.get_by_role("button", name="Next").click()
        assert names(page)[0] == f"{9939 % 7}/9939.png"
        page.get_by_label("Page").fill("167")
        page.get_by_label("Page").press("Enter")
        assert names(page)[-1] == "0/0.png"
        assert page.get_by_role("button", name="Next").is_disabled()
        page.get_by_label("Verdict").select_option("anomalous")
        assert page.get_by_text("of 17", exact=True).is_visible()
        page.get_by_label("Folder").select_option(label="3 (1429)")
        assert names(page)[:2] == ["3/9999.png", "3/9992.png"]


def test_there_is_no_gallery_without_pictures(exported: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "0.png", 0)
    arguments = ["--model", exported, "--input", tmp_path / "0.png", "--output", tmp_path / "output", "--no-pictures"]
    assert verb.main([str(one) for one in arguments]) == 0
    assert not {"gallery.html", "thumbnails"} & {path.name for path in (tmp_path / "output").iterdir()}
