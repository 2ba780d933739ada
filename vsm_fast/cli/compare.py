"""``vsm-fast compare``: two results on the images that both have."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from vsm_fast.cli.common import ExitCode
from vsm_fast.cli.options import Names, option
from vsm_fast.cli.rank import TableCommand


@dataclass(frozen=True, kw_only=True)
class Compare(TableCommand):
    """Compare two results on equal images."""

    NOTES: ClassVar[str] = """\
matching:
  rows of A and B match if subject and id are equal, or the columns of --on; never by position.
  Unmatched rows and pairs without a score are counted and left out.

intervals:
  95 % by a bootstrap over subjects, then pairs.

"""
    a: Annotated[Path, option("file or folder of results")] = field(kw_only=False)
    b: Annotated[Path, option("results to compare with")] = field(kw_only=False)
    on: Annotated[Names, option("columns that match rows (default: subject id)")] = ()

    def run(self) -> ExitCode:
        """Compare the results."""
        self.check_outputs()
        from vsm_fast.report.data import read_results
        from vsm_fast.report.ranking import compare

        a, b = read_results(self.a), read_results(self.b)
        comparison = compare(a, b, on=self.on, draws=self.resamples, seed=self.seed)
        self.print_and_write(comparison, {self.a: a, self.b: b})
        return ExitCode.OK
