"""Where the footnotes of a table stand, and their letters."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd


class Footnotes:
    """Where each note stands: at a cell, at the row or column all of whose numbers it is about, or below the table."""

    def __init__(self, results: pd.DataFrame) -> None:
        filled = results[~results["missing"]]
        notes = filled.explode("notes").dropna(subset="notes")
        self.of_table = self._shared_by_all(filled, notes)
        notes = notes[~notes["notes"].isin(self.of_table)]
        self._columns = self._shared(filled, notes, "metric")
        self._rows = self._shared(filled, notes[~self._covered(notes, "metric", self._columns)], "method")
        self._cells = {(row["method"], row["metric"]): self._own(row) for _, row in results.iterrows()}
        self.letters: dict[str, str] = {}
        for metric in results["metric"].unique():
            self._number(self._columns.get(metric, []))
        for method in results["method"].unique():
            self._number(self._rows.get(method, []))
            for metric in results["metric"].unique():
                self._number(self._cells.get((method, metric), []))

    def of_column(self, metric: str) -> str:
        """Letters at a column's label."""
        return self._marks(self._columns.get(metric, []))

    def of_row(self, method: str) -> str:
        """Letters at a row's label."""
        return self._marks(self._rows.get(method, []))

    def of_cell(self, method: str, metric: str) -> str:
        """Letters at a number or dash."""
        return self._marks(self._cells.get((method, metric), []))

    @staticmethod
    def _shared_by_all(filled: pd.DataFrame, notes: pd.DataFrame) -> list[str]:
        counts = notes["notes"].value_counts(sort=False)
        return [str(note) for note, count in counts.items() if count == len(filled) > 1]

    @staticmethod
    def _shared(filled: pd.DataFrame, notes: pd.DataFrame, key: str) -> dict[str, list[str]]:
        """Notes on every number of a row or column that has two or more."""
        sizes = filled[key].value_counts()
        found: dict[str, list[str]] = {}
        for name, group in notes.groupby(key, sort=False):
            counts = group["notes"].value_counts(sort=False)
            found[str(name)] = [str(note) for note, count in counts.items() if count == sizes[name] > 1]
        return found

    @staticmethod
    def _covered(notes: pd.DataFrame, key: str, shared: dict[str, list[str]]) -> pd.Series:
        covered = [note in shared.get(name, []) for name, note in zip(notes[key], notes["notes"], strict=True)]
        return pd.Series(covered, index=notes.index, dtype=bool)

    def _own(self, row: pd.Series) -> list[str]:
        """What is said at the cell itself."""
        elsewhere = [*self.of_table, *self._columns.get(row["metric"], []), *self._rows.get(row["method"], [])]
        return [note for note in _cell_notes(row) if note not in elsewhere]

    def _number(self, notes: list[str]) -> None:
        for note in notes:
            self.letters.setdefault(note, _letter(len(self.letters)))

    def _marks(self, notes: list[str]) -> str:
        return ",".join(self.letters[note] for note in notes)


def _cell_notes(result: pd.Series) -> Iterator[str]:
    if result["missing"]:
        yield f"Not measured yet: `{result['command']}`."
    elif result["command"]:
        yield f"{result['seeds']} of {result['seeds_expected']} seeds; for the others: `{result['command']}`."
    yield from result["notes"]


def _letter(number: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    prefix = _letter(number // 26 - 1) if number >= 26 else ""
    return prefix + chr(ord("a") + number % 26)
