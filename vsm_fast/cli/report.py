"""``vsm-fast report``: an HTML page from a table of results."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from vsm_fast.cli.common import ExitCode, UsageError, make_folder, print_text
from vsm_fast.cli.options import Count, Directory, File, QuietCommand, option

_IMAGES = 400  # vsm_fast.report.page.DEFAULT_IMAGES, which would import torch; a test compares them


@dataclass(frozen=True, kw_only=True)
class Report(QuietCommand):
    """Write one HTML page to explore results."""

    NOTES: ClassVar[str] = """\
results:
  output of vsm-fast score --out: a file, the folder of a job, or a folder of such files. Without
  --points (Parquet only) the page has scores, but no other thresholds, heat maps or matched
  points.

images:
  are read from their location at scoring time. Half of the pictures go to the lowest scores, a
  quarter to the highest, the rest to pairs spread over the others.

"""
    results: Annotated[Path, option("file or folder of results")] = field(kw_only=False)
    out: Annotated[File, option("page: .html")]
    title: Annotated[str, option("title of the page")] = "VSM report"
    images: Annotated[Count | None, option(f"pairs with pictures (default: {_IMAGES})")] = None
    no_images: Annotated[bool, option("leave out pictures")] = False
    root: Annotated[Directory | None, option("base of relative image paths")] = None

    def run(self) -> ExitCode:
        """Write the page."""
        out = self.out
        if out.suffix.lower() not in (".html", ".htm"):
            raise UsageError(f"--out must end in .html; got {out}.")
        if out.is_dir():
            raise UsageError(f"--out must be a file; {out} is a folder.")
        if self.root is not None and not self.root.is_dir():
            raise UsageError(f"--root must be a folder; got {self.root}.")
        if self.no_images and self.images is not None:
            raise UsageError("--images and --no-images exclude each other.")
        make_folder(out.parent, "--out")
        from vsm_fast.report import read_results, write_report

        results = read_results(self.results)
        images = 0 if self.no_images else self.images or _IMAGES
        try:
            pictures = write_report(results, out, title=self.title, images=images, root=self.root)
        except ImportError as error:  # the extra is missing
            raise UsageError(str(error)) from error
        lines = [
            f"report: {out} ({out.stat().st_size / 1e6:.1f} MB, {len(results):,} pairs, "
            f"{len(pictures.files):,} images)"
        ]
        if results.planned not in (None, len(results)):
            lines.append(f"The job is not finished: {results.planned:,} pairs were planned.")
        if pictures.missing:
            lines.append(
                f"{pictures.missing:,} images could not be read. If they were moved, set the base "
                "of their relative paths with --root."
            )
        if results.without_points:
            lines.append(results.without_points)
        if not self.quiet:
            print_text("\n".join(lines))
        return ExitCode.OK
