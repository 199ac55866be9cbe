"""What a suite's runs say about the papers: files that can be committed, and the page that is written from them."""

from pipeline.reporting.reproduction.claims import read_steps
from pipeline.reporting.reproduction.findings import find
from pipeline.reporting.reproduction.gathering import gather
from pipeline.reporting.reproduction.pages import PAGE, fill_page
from pipeline.reporting.reproduction.record import read_records, write_record

__all__ = ["PAGE", "fill_page", "find", "gather", "read_records", "read_steps", "write_record"]
