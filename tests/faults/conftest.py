"""Stages as real processes, as the tests of the stages run them."""

from tests.stages.conftest import make_workplace as make_workplace
from tests.stages.conftest import uninterrupted as uninterrupted
