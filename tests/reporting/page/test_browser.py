"""The report in a real browser: from a file, offline, light and dark, wide and narrow, with and without scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from pipeline.experiments.compare import compare
from stages import figures, report
from tests.reporting.page.conftest import MEASURED, Suite

Open = Callable[..., Page]
PHONE = {"width": 360, "height": 740}
COLUMN = "() => Array.from(document.querySelectorAll('[data-table=table1] tbody tr')).map(r => r.cells[1].innerText)"


@pytest.fixture(scope="module")
def page_file(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the suite, with its figures."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(suite.folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        assert figures.main([]) == 0
        assert report.main(["--output", str(path)]) == 0
    return path


@pytest.fixture
def open_report(browser: Browser, page_file: Path) -> Iterator[Open]:
    """`open_report("#costs", viewport=..., color_scheme=...)`; nothing may be asked of a network, nothing may fail."""
    asked: list[str] = []
    failed: list[str] = []
    contexts = []

    def open_it(place: str = "", **options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: failed.append(message.text))
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.goto(page_file.as_uri() + place)
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert {url.partition("#")[0] for url in asked if not url.startswith("data:")} <= {page_file.as_uri()}
    assert failed == []


def test_labels_stay_text_and_pictures_are_there(open_report: Open) -> None:
    page = open_report()
    assert page.title() == "Generalist: digits"
    pictures = page.evaluate(
        "Promise.all(Array.from(document.images).map(image => image.decode().then(() => image.naturalWidth)))"
    )
    assert len(pictures) > 3 * 6 * 9 and min(pictures) > 0


def test_tables_sort_up_and_down_and_back(open_report: Open) -> None:
    page = open_report()
    before = page.evaluate(COLUMN)
    numbers = [float(text) for text in before if text[0].isdigit()]
    assert len(before) == 4 and len(numbers) == 3
    button = page.locator("[data-table=table1] thead button").nth(1)
    orders = []
    for _ in range(3):
        button.click()
        orders.append(page.locator("[data-table=table1] thead th").nth(1).get_attribute("aria-sort"))
        shown = page.evaluate(COLUMN)
        if len(orders) < 3:
            assert [float(text) for text in shown[:3]] == sorted(numbers, reverse=orders[-1] == "descending")
            assert shown[3].startswith("--")
    assert orders == ["descending", "ascending", "none"] and shown == before
    page.locator("[data-table=table1] thead button").first.focus()
    page.keyboard.press("Enter")
    names = page.locator("[data-table=table1] tbody th").all_inner_texts()
    assert [name[:2] for name in names] == ["AT", "Ge", "Ge", "NT"]


def test_one_experiment_at_a_time(open_report: Open) -> None:
    page = open_report()
    article = page.locator("article.page:visible")
    assert article.count() == 0 and page.locator("main").is_visible()
    page.locator("[data-table=table1] tbody th a").first.click()
    assert article.get_attribute("id") == f"experiment-{MEASURED[0]}-1"
    assert not page.locator("main").is_visible()
    page.locator("article:visible a[rel=next]").click()
    assert article.get_attribute("id") == f"experiment-{MEASURED[1]}-1"
    page.go_back()
    assert article.get_attribute("id") == f"experiment-{MEASURED[0]}-1"
    page.locator(".bar a[href='#costs']").click()
    assert page.locator("#costs").is_visible() and article.count() == 0


def test_points_of_the_trade_off_name_their_method_and_lead_to_it(open_report: Open) -> None:
    page = open_report()
    points = page.locator("svg a.point")
    assert points.count() == 3
    assert "Natural" in points.first.locator("title").text_content().title()  # type: ignore[union-attr]
    points.last.click()
    assert page.locator("article.page:visible").get_attribute("id") == f"experiment-{MEASURED[2]}-1"


@pytest.mark.parametrize("place", ["", *(f"#experiment-{method}-1" for method in [*MEASURED, "generalist_d_linf_l2"])])
def test_a_phone_scrolls_tables_and_not_the_page(open_report: Open, place: str) -> None:
    page = open_report(place, viewport=PHONE, is_mobile=True, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    if not place:
        box = page.locator(".box", has=page.locator("[data-table=table1]"))
        assert box.evaluate("box => box.scrollWidth > box.clientWidth")


def test_dark_is_dark_and_texts_can_be_read(open_report: Open) -> None:
    shots, contrasts = {}, {}
    for scheme in ("light", "dark"):
        page = open_report(color_scheme=scheme)
        shots[scheme] = page.screenshot()
        contrasts[scheme] = page.evaluate(
            """() => {
              const light = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number)
                .map((value) => ((value / 255 + 0.055) / 1.055) ** 2.4)
                .reduce((sum, value, place) => sum + value * [0.2126, 0.7152, 0.0722][place], 0);
              const paper = light(getComputedStyle(document.body).backgroundColor);
              return ["h1", ".note", "a[href='#tables']", "td", ".missing"].map((selector) => {
                const ink = light(getComputedStyle(document.querySelector(selector)).color);
                return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
              });
            }"""
        )
    assert shots["light"] != shots["dark"]
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert min(map(min, contrasts.values())) > 4.5  # WCAG 2, level AA


def test_it_works_without_scripts(open_report: Open) -> None:
    page = open_report(java_script_enabled=False)
    assert page.locator("[data-table=table1] tbody tr").count() == 4
    assert page.locator("thead button").count() == 0
    page.locator("[data-table=table1] tbody th a").first.click()
    assert page.locator("article.page:visible").get_attribute("id") == f"experiment-{MEASURED[0]}-1"


def test_any_two_experiments_are_compared(open_report: Open, suite: Suite) -> None:
    """The numbers are those of `make compare`, in both directions."""
    page = open_report("#compare")
    first, second = page.locator("#compare-form select").all()
    rows = (
        "() => Array.from(document.querySelectorAll('#compare-found tbody')[0].rows).map(r => r.innerText.split('\\t'))"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(suite.folder)
        for one, other in ((0, 2), (2, 0), (1, 2)):
            first.select_option(index=one)
            second.select_option(index=other)
            sides = [suite.params.experiment(MEASURED[place], 1) for place in (one, other)]
            found = compare(sides[0], sides[1])
            shown = {row[0]: row[1:] for row in page.evaluate(rows)}
            assert {"natural", "pgd20_linf", "aa_linf", "aa_l2"} <= set(shown)
            for attack, cells in shown.items():
                expected = list(found.accuracies.loc[attack])
                assert [float(cells[0]), float(cells[1])] == pytest.approx(
                    [100 * expected[1], 100 * expected[2]], abs=0.01
                )
                assert [int(cells[2]), int(cells[3]), int(cells[5])] == [expected[3], expected[4], expected[0]]
                assert float(cells[4]) == pytest.approx(expected[5], rel=0.01)
            settings = page.evaluate("() => document.querySelectorAll('#compare-found tbody')[1].innerText")
            assert all(path in settings for path in found.settings.index)
            lines = page.locator("#compare-found .overlay polyline:visible")
            assert lines.count() == 2 * page.locator("#compare-found .overlay").count() > 0


def test_the_images_that_only_one_gets_right_are_shown(open_report: Open, suite: Suite) -> None:
    page = open_report("#compare")
    page.locator("#compare-form select").nth(1).select_option(index=2)
    page.locator("#compare-found select").select_option("pgd20_linf")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(suite.folder)
        found = compare(suite.params.experiment(MEASURED[0], 1), suite.params.experiment(MEASURED[2], 1))
    pool = set(
        page.evaluate("() => Array.from(document.querySelectorAll('article [data-image]')).map(i => +i.dataset.image)")
    )
    for place, images in enumerate(found.disputed("pgd20_linf")):
        group = page.locator("#compare-found .pictures p").nth(place)
        shown = group.evaluate("group => Array.from(group.querySelectorAll('img')).map(image => +image.dataset.image)")
        assert shown == sorted(pool & set(images))
    assert page.locator("#compare-found .pictures img").count() > 0


def test_without_scripts_the_command_is_named(open_report: Open) -> None:
    page = open_report("#compare", java_script_enabled=False)
    assert "make compare A=... B=..." in page.locator("#compare").inner_text()
    assert not page.locator("#compare-found").is_visible()
