"""Variables of the environment that MLflow reads, checked before work begins."""

from __future__ import annotations

import os

from pipeline.core.errors import RequestError


def check_variables() -> None:
    """Refuse values that MLflow does not take: it would ask for them, and fail, in the middle of work.

    Raises:
        RequestError: names the variable.
    """
    from mlflow import environment_variables

    for variable in vars(environment_variables).values():
        if isinstance(name := getattr(variable, "name", None), str) and name in os.environ:
            try:
                variable.get()
            except ValueError as error:
                raise RequestError(f"{error}; correct or unset this variable of the environment") from None
