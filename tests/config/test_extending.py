"""`extends` in `methods`, and tables with every method."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from pipeline.config import MovingAverageSettings, parse_params
from pipeline.core.errors import RequestError

T = "generalist_t"
Content = dict[str, Any]


def with_methods(raw: Content, **methods: Any) -> Content:
    return {**raw, "methods": {**raw["methods"], **methods}}


def mistakes(raw: Content) -> list[str]:
    with pytest.raises(RequestError) as caught:
        parse_params(raw)
    first, *lines = [line.strip() for line in str(caught.value).splitlines()]
    assert "nothing was started" in first
    return lines


def test_a_method_that_extends_another_is_the_same_as_one_written_out(raw: Content) -> None:
    whole = deepcopy(raw["methods"][T])
    whole["label"] = "mine"
    whole["mixture"]["communication_interval"] = 1
    whole["learners"]["natural"]["optimizer"]["learning_rate"] = 0.3
    short = {
        "extends": T,
        "label": "mine",
        "mixture": {"communication_interval": 1},
        "learners": {"natural": {"optimizer": {"learning_rate": 0.3}}},
    }
    before = deepcopy(raw)
    found = parse_params(with_methods(raw, my_t=short))
    assert raw == before
    assert found == parse_params(with_methods(raw, my_t=whole))
    assert found.experiment("my_t", 1).fingerprint != found.experiment(T, 1).fingerprint


def test_what_changes_nothing_is_the_same_experiment(raw: Content) -> None:
    found = parse_params(with_methods(raw, my_t={"extends": T, "label": "mine"}))
    assert found.experiment("my_t", 1).fingerprint == found.experiment(T, 1).fingerprint


def test_methods_extend_each_other_in_any_order(raw: Content) -> None:
    methods = {
        "third": {"extends": "second", "label": "3", "mixture": {"decay": 0.5}},
        "second": {"extends": T, "label": "2", "mixture": {"warmup_epochs": 3, "decay": 0.25}},
    }
    found = parse_params(with_methods(raw, **methods))
    mixtures = [found.methods[name].mixture for name in ("second", "third")]
    assert [(one.warmup_epochs, one.decay) for one in mixtures if isinstance(one, MovingAverageSettings)] == [
        (3, 0.25),
        (3, 0.5),
    ]


def test_an_objective_and_a_section_of_another_kind_are_replaced(raw: Content) -> None:
    learner = {"objective": {"name": "natural"}, "optimizer": {"name": "adam", "learning_rate": 0.001}}
    found = parse_params(with_methods(raw, mine={"extends": "at", "label": "x", "learners": {"linf": learner}}))
    settings = found.methods["mine"].learners["linf"]
    assert settings.objective.name == "natural" and settings.objective.norms() == ()
    assert settings.optimizer.name == "adam" and settings.schedule == found.methods["at"].learners["linf"].schedule


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        (
            {"a": {"extends": "generalist_tt", "label": "a"}},
            "methods.a.extends: unknown method 'generalist_tt': did you mean 'generalist_t'? Valid: nt, at, ",
        ),
        ({"a": {"extends": "a", "label": "a"}}, "methods.a.extends: goes in a circle: a -> a"),
        ({"a": {"extends": ["at"], "label": "a"}}, "methods.a.extends: unknown method '['at']': Valid: "),
        ({"a": {"extends": None, "label": "a"}}, "methods.a.extends: unknown method 'None': "),
        ({"a": {"extends": T}}, "methods.a.label: is missing"),
        ({"a": {"extend": T, "label": "a"}}, "methods.a.extend: unknown key; did you mean 'extends'? Valid: "),
        (
            {"a": {"extends": T, "label": "a", "mixture": {"interval": 2}}},
            "methods.a.mixture.interval: unknown key; Valid: ",
        ),
    ],
)
def test_what_cannot_be_extended_is_named(raw: Content, methods: Content, said: str) -> None:
    lines = mistakes(with_methods(raw, **methods))
    assert any(line.startswith(said) for line in lines), lines


def test_a_circle_is_named_beside_other_mistakes(raw: Content) -> None:
    content = with_methods(raw, a={"extends": "b", "label": "a"}, b={"extends": "a", "label": "b"})
    content["tables"]["table1"]["rows"] = ["a", "b", "x"]
    lines = mistakes(content)
    assert lines[:2] == [
        "methods.a.extends: goes in a circle: a -> b -> a",
        "methods.b.extends: goes in a circle: b -> a -> b",
    ]
    assert len(lines) == 3 and lines[2].startswith("tables.table1.rows: unknown method 'x'")


def test_a_table_of_all_methods(raw: Content) -> None:
    content = with_methods(raw, my_t={"extends": T, "label": "mine"})
    content["tables"]["table1"]["rows"] = "all"
    assert parse_params(content).tables["table1"].rows == list(content["methods"])
    content["tables"]["table1"]["rows"] = "al"
    assert mistakes(content) == ["tables.table1.rows: expected a list of methods, or 'all', got 'al'"]
