"""What the page's script sorts by, and the LaTeX that it hands on."""

from __future__ import annotations

import re

from pipeline.reporting.layout import Cell, Label, Layout, Row
from pipeline.reporting.page.report import page_environment


def test_values_to_sort_by_are_numbers_whatever_their_sign() -> None:
    values = ["+2.00", "±0.00", "-1.00", ""]
    rows = [Row(Label(f"row {number}"), [Cell(value)]) for number, value in enumerate(values)]
    layout = Layout("table1_minus_paper", "Differences", "", [Label("AA")], rows, {}, [])
    macros = page_environment().from_string("{% import 'macros.html.j2' as macros %}{{ macros.table(table) }}")
    page = macros.render(
        table={
            "layout": layout,
            "links": ["#"] * len(rows),
            "latex": "a < b </script>",
        }
    )
    assert [float(value) for value in re.findall('data-value="([^"]*)"', page)] == [2, 0, -1]
    assert page.count("data-missing") == 1
    assert page.count("</script>") == 1 and "a <{} b" in page
