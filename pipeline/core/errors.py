"""The failures that a person can act on, and the exit code of each.

Every error that a user can cause or meet derives from `PipelineError`: the stages print its message alone, without a
traceback, and leave with its `exit_code`. Anything else that escapes is a defect of this project.
"""

from __future__ import annotations


class PipelineError(Exception):
    """Something failed although the request was right (exit code 1): a full disk, a loss that is not finite."""

    exit_code = 1
    is_of_all_ranks = False
    """Whether every process of a training meets it, so that one speaks for all."""


class RequestError(PipelineError):
    """The request was wrong (exit code 2): a misspelt key, missing data, a checkpoint of another experiment."""

    exit_code = 2


class DivergedError(PipelineError):
    """A loss is not finite."""


class Interrupted(PipelineError):
    """Stopped on demand after a checkpoint was written (exit code 75, 'try again': the same command continues)."""

    exit_code = 75


class StoppedWaiting(Interrupted):
    """Stopped on demand while this process waited for another one."""


def did_you_mean(given: str, valid: list[str]) -> str:
    """A sentence that lists the valid names, the nearest one first when there is one.

    >>> did_you_mean("lerning_rate", ["learning_rate", "momentum"])
    "did you mean 'learning_rate'? Valid: learning_rate, momentum"
    """
    from difflib import get_close_matches

    close = get_close_matches(given, valid, n=1)
    guess = f"did you mean '{close[0]}'? " if close else ""
    return f"{guess}Valid: {', '.join(valid)}"
