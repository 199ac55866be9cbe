"""Thousands of wrong requests, each of which must end in one clear message, exit code 2 and nothing written."""
