"""The workplaces of the stages."""

from tests.stages.conftest import make_workplace, uninterrupted, workplace

__all__ = ["make_workplace", "uninterrupted", "workplace"]
