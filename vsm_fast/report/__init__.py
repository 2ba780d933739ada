"""Reports: the results of many pairs as a page for a browser, and rankings of them."""

from vsm_fast.report.data import Results, read_results, results_of
from vsm_fast.report.page import write_report
from vsm_fast.report.ranking import compare, rank

__all__ = ["Results", "compare", "rank", "read_results", "results_of", "write_report"]
