"""Reports: the results of many pairs as one self-contained HTML page."""

from vsm_fast.report.data import Results, read_results, results_of
from vsm_fast.report.page import write_report

__all__ = ["Results", "read_results", "results_of", "write_report"]
