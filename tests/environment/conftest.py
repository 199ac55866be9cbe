"""The workplaces of the stages."""

from tests.stages.conftest import make_workplace, small_disk, uninterrupted, workplace

__all__ = ["make_workplace", "small_disk", "uninterrupted", "workplace"]
