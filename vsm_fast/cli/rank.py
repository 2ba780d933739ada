"""``vsm-fast rank``: groups of results by mean score."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from vsm_fast.cli.common import ExitCode, UsageError, make_folder, print_text
from vsm_fast.cli.options import MANY, Count, File, Name, Names, QuietCommand, Seed, option

if TYPE_CHECKING:
    from vsm_fast.report.data import Results
    from vsm_fast.report.ranking import Comparison, Ranking

_FORMATS = (".md", ".csv", ".json", ".png")  # ranking_tables.FORMATS; a test compares them


@dataclass(frozen=True, kw_only=True)
class TableCommand(QuietCommand):
    """A command that prints a table with bootstrap intervals and writes it to files."""

    out: Annotated[tuple[File, ...], MANY, option(", ".join(_FORMATS))] = ()
    resamples: Annotated[Count, option("resamples of the bootstrap")] = 2000
    seed: Annotated[Seed, option("seed of the resamples")] = 0

    def check_outputs(self) -> None:
        """Refuse unusable outputs before the work."""
        for path in self.out:
            if path.suffix.lower() not in _FORMATS:
                raise UsageError(f"--out must end in {', '.join(_FORMATS)}; got {path}.")
            if path.is_dir():
                raise UsageError(f"--out must be a file; {path} is a folder.")
            make_folder(path.parent, "--out")
        if any(path.suffix.lower() == ".png" for path in self.out):
            from vsm_fast.extras import required

            try:
                required("matplotlib.figure", "--out FILE.png")
            except ImportError as error:
                raise UsageError(str(error)) from error

    def print_and_write(self, result: Ranking | Comparison, tables: dict[Path, Results]) -> None:
        """Print the table, name unfinished jobs among its inputs, and write the files."""
        from vsm_fast.report.ranking_tables import as_text, write

        if not self.quiet:
            print_text(as_text(result))
            for name, table in tables.items():
                if table.planned not in (None, len(table)):
                    print_text(
                        f"The job {name} is not finished: {table.planned:,} pairs were planned."
                    )
        for path in self.out:
            write(result, path)
        if self.out and not self.quiet:
            print_text(f"\nwritten: {', '.join(map(str, self.out))}")


@dataclass(frozen=True, kw_only=True)
class Rank(TableCommand):
    """Rank generators, or the groups of another column, by mean score."""

    NOTES: ClassVar[str] = """\
results:
  a file that vsm-fast score --out writes, a job folder, or a folder of such files.

intervals:
  95 % by a bootstrap over subjects, then images; all groups share the drawn subjects. Pairs
  without a score are counted and take no part in any mean. --on names columns whose values
  corresponding images share; by default their paths differ in the group's name only.

"""
    results: Annotated[Path, option("file or folder of results")] = field(kw_only=False)
    by: Annotated[Name, option("column of the groups")] = "generator"
    on: Annotated[Names, option("columns that match images")] = ()

    def run(self) -> ExitCode:
        """Rank the groups."""
        self.check_outputs()
        from vsm_fast.report.data import read_results
        from vsm_fast.report.ranking import rank

        results = read_results(self.results)
        ranking = rank(results, self.by, on=self.on, draws=self.resamples, seed=self.seed)
        self.print_and_write(ranking, {self.results: results})
        return ExitCode.OK
