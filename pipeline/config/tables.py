"""Tables and their columns: the section `tables` of `params.yaml`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, ValidationInfo, field_validator

from pipeline.config.evaluation import TRAINING_SECONDS
from pipeline.config.metrics import unknown_metric
from pipeline.core.values import Name, StrictModel, Whole, context, declared, repeated, unless

PaperTable = Literal["1a", "1b", "I", "II", "III", "IV"]
"""Tables of Generalist (CVPR 2023) by number, those of Generalist++ by Roman number."""


class TableColumn(StrictModel):
    """One column of a table."""

    metric: str
    label: str
    relative_to: Annotated[str, declared("method", "methods")] | None = None
    """Divide by this method's value of the same seed; for `training_seconds` alone."""

    @field_validator("metric")
    @classmethod
    def _is_measured(cls, value: str, info: ValidationInfo) -> str:
        attacks = context(info, "attacks")
        problem = unknown_metric(value, attacks) if attacks else ""
        return unless([problem] if problem else [], value)

    @field_validator("relative_to")
    @classmethod
    def _is_for_training_time(cls, value: str | None, info: ValidationInfo) -> str | None:
        metric = info.data.get("metric", TRAINING_SECONDS)
        if value is not None and metric != TRAINING_SECONDS:
            raise ValueError(f"only {TRAINING_SECONDS} is given relative to a method, {metric} is not")
        return value


class TableSettings(StrictModel):
    """One table of the paper: rows are methods, columns are metrics."""

    caption: str
    rows: Annotated[list[str], Field(min_length=1), declared("method", "methods")]
    """Keys of `methods`; `all` stands for every one, in the order of the file."""
    columns: list[TableColumn] = Field(min_length=1)
    digits: Whole = Field(default=2, ge=0, le=4)
    """Decimals, of an accuracy at most: it has no more than its images tell."""
    marks: list[Literal["best", "second"]] = Field(default=["best", "second"])
    """What is marked in every column: in bold the best and what cannot be told from it, underlined the next best."""
    uncertainty: Literal["seeds", "wilson", "none"] = "seeds"
    """Beside each number: standard deviation over seeds (where there are several), the 95% interval of Wilson over test
    images, or nothing."""
    other_protocols: StrictBool = False
    """Fill cells without a run of this protocol from runs of another one, with a footnote."""
    file: Name | None = None
    """Name of the files instead of the table's key."""
    paper: list[PaperTable] = Field(default=[])
    """The papers' tables that it stands beside: what they have for this data set and network is subtracted in a second
    form, 'reproduced minus paper'. Where two have the same cell, the one that is listed first counts."""

    @field_validator("rows", mode="before")
    @classmethod
    def _write_out_all(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str) and value != "all":
            raise ValueError(f"expected a list of methods, or 'all', got '{value}'")
        return context(info, "methods") if value == "all" else value

    @field_validator("columns")
    @classmethod
    def _differ(cls, value: list[TableColumn]) -> list[TableColumn]:
        return unless(repeated([column.metric for column in value]), value)
