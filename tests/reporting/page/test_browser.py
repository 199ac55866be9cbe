"""The report in a real browser: from a file, offline, light and dark, wide and narrow, with and without scripts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from pipeline.experiments.compare import compare
from pipeline.reporting import latex
from pipeline.reporting.results import collect
from pipeline.reporting.tables import lay_out, of_suite
from stages import figures, report
from tests.conftest import PATIENCE
from tests.reporting.page.conftest import MEASURED, Suite

Open = Callable[..., Page]
PHONE = {"width": 360, "height": 740}
COLUMN = """() => Array.from(document.querySelectorAll("[data-table=table1] tbody tr"))
  .map((row) => row.cells[1].querySelector("span").innerText)"""


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
        context.set_default_timeout(1000 * PATIENCE)
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
    assert {url.partition("#")[0] for url in asked if not url.startswith(("data:", "blob:"))} <= {page_file.as_uri()}
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


def points_of(chart: Locator) -> list[tuple[float, float]]:
    """Where the points of a chart are, on the screen."""
    chart.scroll_into_view_if_needed()
    chart.locator(".plot .points path").first.wait_for()
    boxes = [point.bounding_box() for point in chart.locator(".plot .points path").all()]
    return [(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) for box in boxes if box]


def test_points_of_the_trade_off_name_their_method_and_lead_to_it(open_report: Open) -> None:
    page = open_report()
    chart = page.locator("figure.chart").first
    expect(chart.locator(".plot")).to_have_attribute("aria-label", re.compile("Natural accuracy .* of all"))
    if (button := chart.get_by_role("button", name="Show all points")).count():
        button.click()
        expect(button).to_have_attribute("aria-pressed", "true")
    points = points_of(chart)
    assert len(points) == 3
    page.mouse.move(*points[-1])
    expect(chart.locator(".hovertext")).to_contain_text(
        re.compile(r"Generalist-D.*natural accuracy \(%\): \d+ \(\d+ to \d+\)")
    )
    page.mouse.click(*points[-1])
    expect(page.locator("article.page:visible")).to_have_id(f"experiment-{MEASURED[2]}-1")


def test_curves_say_their_values_when_pointed_at_and_as_a_table(open_report: Open, suite: Suite) -> None:
    page = open_report(f"#experiment-{MEASURED[2]}-1")
    chart = page.locator("article:visible figure.chart", has_text="Mixing ratios")
    chart.scroll_into_view_if_needed()
    box = chart.locator(".plot .nsewdrag").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(chart.locator(".hoverlayer")).to_contain_text(re.compile(r"natural : [\d.]+"))
    chart.get_by_text("Values").focus()
    page.keyboard.press("Enter")
    rows = chart.locator(".values tbody tr")
    assert rows.count() == 2 * suite.params.training.epochs
    assert {float(row.split("\t")[2]) <= 1 for row in rows.all_inner_texts()} == {True}


def saved(page: Page, part: Locator, kind: str, folder: Path) -> Path:
    """What a button of an export menu saves."""
    if not part.get_by_role("button", name=f"Save {kind}").is_visible():
        part.locator("summary", has_text="Export").first.click()
    with page.expect_download() as download:
        part.get_by_role("button", name=f"Save {kind}").first.click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_charts_and_figures_are_saved(open_report: Open, suite: Suite, page_file: Path, tmp_path: Path) -> None:
    page = open_report(color_scheme="dark")
    chart = page.locator("figure.chart").first
    svg = saved(page, chart, "SVG", tmp_path).read_text()
    assert svg.startswith("<svg") and "natural accuracy (%)" in svg and "AutoAttack" in svg
    with Image.open(saved(page, chart, "PNG", tmp_path)) as image:
        assert image.size == (1440, 960)
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)  # for a paper, whatever the reader's colours
    table = pd.read_csv(saved(page, chart, "CSV", tmp_path))
    assert list(table["Method"].str[:2]) == ["NT", "AT", "Ge"] and table["natural accuracy (%)"].between(0, 100).all()
    figure = saved(page, page.locator("#figure-grad_cam_l2"), "PNG", tmp_path)
    assert figure.name == "grad_cam_l2.png" and figure.read_bytes()[:4] == b"\x89PNG"
    vector = saved(page, page.locator("#figure-grad_cam_l2"), "SVG", tmp_path)
    drawn = suite.params.reports / "figures" / vector.name
    assert vector.name == "grad_cam_l2.svg" and vector.read_bytes() == (suite.folder / drawn).read_bytes()
    assert page_file.stat().st_size < 8_000_000


def test_tables_are_filtered_by_words_and_by_group(open_report: Open) -> None:
    page = open_report()
    rows = page.locator("[data-table=table1] tbody tr:visible")
    words = page.locator("#table-table1 input[type=search]")
    words.fill("generalist linf_l2")
    expect(rows).to_have_count(1)
    words.fill("")
    expect(rows).to_have_count(4)
    group = page.locator("#table-table1 .tools select")
    group.select_option("all")
    expect(rows).to_have_count(3)
    page.get_by_label(f"Pick {MEASURED[1]}-1").first.check()
    group.select_option("Picked")
    expect(rows).to_have_count(1)
    article = open_report(f"#experiment-{MEASURED[0]}-1").locator("article:visible")
    article.get_by_label("Filter Accuracy", exact=True).fill("autoattack")
    expect(article.locator("table").first.locator("tbody tr:visible")).to_have_count(2)


def test_a_table_is_saved_as_it_is_shown(open_report: Open, tmp_path: Path) -> None:
    page = open_report()
    page.locator("#table-table1 input[type=search]").fill("generalist")
    table = pd.read_csv(saved(page, page.locator("#table-table1"), "CSV", tmp_path))
    assert list(table["Method"].str[:12]) == ["Generalist-D"] * 2 and table.shape == (2, 8)
    assert table["Natural"].notna().tolist() == [True, False]
    costs = saved(page, page.locator("#costs"), "LaTeX", tmp_path).read_text()
    assert costs.startswith("\\begin{tabular}{lrrrrrr}") and costs.count(r"\\") == 4 and r"($\ell$$\infty$)" in costs
    assert pd.read_csv(saved(page, page.locator("#costs"), "CSV", tmp_path))["Epochs"].tolist() == [4, 4, 4]


def test_whoever_is_picked_stands_out_everywhere(open_report: Open) -> None:
    page = open_report("#compare")
    chart = page.locator("#compare figure.chart").first
    lines = chart.locator(".plot .scatterlayer .trace")
    expect(lines).to_have_count(3)
    for name in (MEASURED[0], MEASURED[2]):
        page.locator("#compare-add").select_option(f"{name}-1")
    expect(page.locator("#compare-count")).to_have_text(" (2)")
    expect(chart.locator(".legend .traces")).to_have_count(2)
    opacities = [float(line.evaluate("line => getComputedStyle(line).opacity")) for line in lines.all()]
    assert sorted(opacities) == [0.12, 1, 1]
    expect(page.locator("[data-table=table1] tr.picked")).to_have_count(2)
    points_of(page.locator("figure.chart").first)
    page.get_by_role("button", name=f"Drop {MEASURED[0]}-1").press("Enter")
    expect(page.locator("#costs tr.picked")).to_have_count(1)
    assert not page.locator("#compare-found").is_visible()


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


def test_picked_experiments_are_compared(open_report: Open, suite: Suite) -> None:
    """The numbers are those of `make compare`, in the order in which they were picked."""
    page = open_report("#compare")
    for place in (2, 0, 1):
        page.locator("#compare-add").select_option(f"{MEASURED[place]}-1")
    tests = page.locator("#compare-found [data-table=paired_tests] tbody tr")
    found = [row.split("\t") for row in tests.all_inner_texts()]
    shown = {tuple(row[:3]): row[3:] for row in found}
    assert len(shown) == len(found) == 3 * 6
    page.locator("#compare-attack").select_option("pgd20_linf")
    images = page.locator("#compare-found .pictures")
    settings = page.locator("#compare-found [data-table=settings_that_differ]").inner_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(suite.folder)
        for one, other in ((2, 0), (2, 1), (0, 1)):
            sides = [suite.params.experiment(MEASURED[place], 1) for place in (one, other)]
            names = [side.identifier for side in sides]
            result = compare(sides[0], sides[1])
            for attack in ("natural", "pgd20_linf", "pgd20_l2", "aa_linf", "aa_l2"):
                cells, expected = shown[attack, names[0], names[1]], list(result.accuracies.loc[attack])
                assert [float(cells[0]), float(cells[1])] == pytest.approx(
                    [100 * expected[1], 100 * expected[2]], abs=0.5
                )
                assert [int(cells[2]), int(cells[3]), int(cells[5])] == [expected[3], expected[4], expected[0]]
                assert float(cells[4]) == pytest.approx(expected[5], rel=0.01)
            for (right, wrong), numbers in zip((names, names[::-1]), result.disputed("pgd20_linf"), strict=True):
                said = f" ({', '.join(map(str, sorted(numbers)))})" if len(numbers) else ""
                expect(images).to_contain_text(f"{right} right, {wrong} wrong: {len(numbers)}{said}")
            # Of several experiments each learner keeps its name, of two baselines both are the first one's.
            assert all(path.partition(".learners.")[2].partition(".")[2] in settings for path in result.settings.index)
            assert all(path in settings for path in result.settings.index if ".learners." not in path)
    assert images.locator("img").count() > 0


def test_without_scripts_the_command_is_named_and_figures_stay(open_report: Open) -> None:
    page = open_report("#compare", java_script_enabled=False)
    assert "make compare A=... B=..." in page.locator("#compare").inner_text()
    assert page.locator("#compare-found").is_hidden() and page.locator("#compare-add").is_hidden()
    expect(page.locator("figure.chart .plot img")).to_be_visible()


def test_what_a_reader_asks_is_answered_from_the_report_alone(open_report: Open, suite: Suite, tmp_path: Path) -> None:
    page = open_report(viewport={"width": 1400, "height": 900})
    # Who cannot be told from the best?
    page.get_by_role("link", name="Who cannot be told from the best").click()
    best, tied = page.locator("#ties-pgd20_linf td").nth(0).inner_text(), page.locator("#ties-pgd20_linf td").nth(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(suite.folder)
        one = suite.params.experiment(best.removesuffix("-1"), 1)
        others = [suite.params.experiment(name, 1) for name in MEASURED if name != one.name]
        p = {other.identifier: float(list(compare(one, other).accuracies.loc["pgd20_linf"])[5]) for other in others}
    equal = [name for name, value in p.items() if value >= 0.05]
    assert tied.inner_text() == (", ".join(equal) or "none")
    marked = page.locator("[data-table=table1] tbody tr", has=page.locator("td:nth-child(3).best"))
    alike = sorted([best, *equal]) if len(equal) < len(others) else []  # a mark that all have is left out
    assert sorted(marked.locator("input").evaluate_all("all => all.map(one => one.value)")) == alike
    # Where does the Generalist beat adversarial training, image by image?
    page.get_by_label(f"Pick {MEASURED[2]}-1").first.check()
    page.get_by_label(f"Pick {MEASURED[1]}-1").first.check()
    page.locator("#compare-attack").select_option("pgd20_l2")
    answer = page.locator("#compare-found .pictures p").first.inner_text()
    assert re.match(rf"{MEASURED[2]}-1 right, {MEASURED[1]}-1 wrong: (0|\d+ \([\d, ]+\))", answer)
    # What is the LaTeX of Table I?
    fragment = saved(page, page.locator("#table-table1"), "LaTeX", tmp_path)
    written = lay_out(of_suite("table1", suite.params, collect_in(suite)["table1"]))
    assert fragment.name == "table1.tex" and fragment.read_text() == latex.fragment(written).replace("<", "<{}")
    # With which settings was one run trained?
    page.get_by_label("Filter Experiments").fill(MEASURED[2])
    page.locator("#experiments tbody tr:visible th a").click()
    settings = yaml.safe_load(page.locator("article:visible pre").first.inner_text())
    assert settings["label"] == suite.params.methods[MEASURED[2]].label
    assert set(settings["learners"]) == {"natural", "linf"}


def collect_in(suite: Suite) -> dict[str, pd.DataFrame]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(suite.folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return collect(suite.params)


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (800, "light"), (1400, "light"), (1400, "dark")])
def test_it_is_seen_at_every_width(open_report: Open, screenshots: Path, width: int, scheme: str) -> None:
    """Nothing of it is wider than the screen, the navigation included; what it looks like is kept where asked."""
    page = open_report(viewport={"width": width, "height": 900}, color_scheme=scheme)
    expect(page.locator("#overview .plot svg.main-svg").first).to_be_visible()
    for link in page.locator(".bar a").all():
        box = link.bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= width
    for name in (MEASURED[0], MEASURED[2]):
        page.get_by_label(f"Pick {name}-1").first.check()
    for place in ("overview", "tables", "compare", f"experiment-{MEASURED[2]}-1"):
        page.evaluate("place => { location.hash = place }", place)
        page.wait_for_timeout(300)  # for charts to be drawn
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.screenshot(path=screenshots / f"report_{width}_{scheme}_{place.partition('-')[0]}.png")


def test_everything_is_reached_by_keyboard_and_has_a_name(open_report: Open) -> None:
    page = open_report("#compare")
    nameless = page.evaluate(
        """() => Array.from(document.querySelectorAll("main :is(button, input, select, summary, [role=img])"))
          .filter((one) => !(one.ariaLabel || one.textContent.trim() || one.labels?.length))
          .map((one) => one.outerHTML)"""
    )
    assert nameless == []
    page.locator("#table-table1 input[type=search]").focus()
    seen = []
    for _ in range(6):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.ariaLabel || document.activeElement.textContent"))
    assert seen[0].startswith("Group in") and seen[1].startswith("Export") and seen[3].startswith("Method")
    page.get_by_label(f"Pick {MEASURED[0]}-1").first.focus()
    page.keyboard.press("Space")
    expect(page.locator("[data-table=table1] tr.picked")).to_have_count(1)
