"""Where the files of a conversion came from: found, hashed, and locked in ``sources.json``.

Presets whose commits are not known take what the Hub's main branch is at the first conversion;
the lock holds the commit and the sha256, so that no later one silently takes something else.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from vsm_fast.errors import ModelError
from vsm_fast.files import sha256_of
from vsm_fast.model.hub_files import HubFiles, fetch
from vsm_fast.model.weights import refuse_pickle

LOCK = "sources.json"
_FORMAT = "vsm_fast sources/1"


@dataclass(frozen=True)
class SourceFile:
    """One file that was read.

    Attributes:
        file: Its path in the repository, or where it lay.
        sha256: Its hash, hexadecimal.
        repository: ``"owner/name"``; None for a local file.
        revision: What was asked for; None = the main branch.
        commit: What that was.
    """

    file: str
    sha256: str
    repository: str | None = None
    revision: str | None = None
    commit: str | None = None

    def __str__(self) -> str:
        if self.repository is None:
            return self.file
        return f"{self.file} of {self.repository} ({self.revision or 'main branch'})"


@dataclass
class Sources:
    """Finds files and remembers which.

    Attributes:
        local_files_only: Never ask the network.
        found: What was found so far.
    """

    local_files_only: bool = False
    found: list[SourceFile] = field(default_factory=list)

    def local(self, path: Path, what: HubFiles) -> Path:
        """A file that the user has.

        Raises:
            ModelError: It is not there, or a pickle; says what it should be.
        """
        refuse_pickle(path)
        if not path.is_file():
            raise ModelError(
                f"{path} is no file; it should be a copy of {what.files[0]} of {what.repository}: "
                f"{what.command()}"
            )
        self.found.append(SourceFile(path.as_posix(), sha256_of(path)))
        return path

    def hub(self, source: HubFiles) -> list[Path]:
        """Files of the Hub, all of one commit.

        Raises:
            ModelError: One cannot be had.
        """
        paths: list[Path] = []
        known = (entry.commit for entry in self.found if self._same_place(entry, source))
        commit = next(known, None)
        for name in source.files:
            path, commit = fetch(
                source, name, commit=commit, local_files_only=self.local_files_only
            )
            paths.append(path)
            entry = SourceFile(name, sha256_of(path), source.repository, source.revision, commit)
            self.found.append(entry)
        return paths

    def folder(self, source: HubFiles, local: Path | None) -> Path:
        """The folder of a repository's files, or a local copy of it.

        Raises:
            ModelError: Files are missing; names them and says how to fetch them.
        """
        if local is None:
            first = self.hub(source)[0]
            return first.parents[len(Path(source.files[0]).parts) - 1]
        missing = [name for name in source.files if not (local / name).is_file()]
        if missing:
            raise ModelError(
                f"{local} lacks {', '.join(missing)}; it should be a copy of {source}: "
                f"{source.command(missing)} --local-dir {local}"
            )
        for name in source.files:
            self.local(local / name, source)
        return local

    @staticmethod
    def _same_place(entry: SourceFile, source: HubFiles) -> bool:
        return (entry.repository, entry.revision) == (source.repository, source.revision)

    def summary(self) -> str:
        """Repositories and commits, for ``base_revision``."""
        places = [
            f"{e.repository}@{e.commit}" if e.repository else f"{Path(e.file).name} (local)"
            for e in self.found
        ]
        return ", ".join(dict.fromkeys(places))


def check_lock(folder: Path, preset: str, found: list[SourceFile]) -> None:
    """Refuse to replace a converted model by one from other files of the same names.

    Args:
        folder: Where the conversion goes; may not exist.
        preset: What is converted.
        found: Its source files.

    Raises:
        ModelError: ``folder`` holds something else, or a file has changed since.
    """
    if not folder.exists():
        return
    path = folder / LOCK
    if not path.is_file():
        raise ModelError(
            f"{folder} exists and was not made by vsm-fast convert (it has no {LOCK}); it is left "
            "as it is. Choose another --out."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        before = [SourceFile(**entry) for entry in content["files"]]
        owner = content["preset"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{path} cannot be read ({error}); choose another --out.") from error
    if owner != preset:
        raise ModelError(f"{folder} holds the preset {owner!r}, not {preset!r}; choose another.")
    locked = {(e.repository, e.file, e.revision): e for e in before}
    for entry in found:
        old = locked.get((entry.repository, entry.file, entry.revision))
        if old is not None and old.sha256 != entry.sha256:
            commits = f", commit {old.commit} then, {entry.commit} now" if entry.commit else ""
            raise ModelError(
                f"{entry} is not the file that {folder} was made from: its sha256 was "
                f"{old.sha256}, now it is {entry.sha256}{commits}. If you want the new one, "
                f"choose another --out or remove {folder}."
            )


def write_lock(folder: Path, preset: str, found: list[SourceFile]) -> None:
    """Write ``sources.json``."""
    content = {"format": _FORMAT, "preset": preset, "files": [asdict(entry) for entry in found]}
    (folder / LOCK).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
