"""Reports: the results of many pairs as one page for a browser, without a server."""

from vsm_fast.report.data import Results, read_results, results_of
from vsm_fast.report.page import write_report

__all__ = ["Results", "read_results", "results_of", "write_report"]
