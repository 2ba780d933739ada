"""Files of the Hub: downloaded, hashed, and locked in ``sources.json`` of a conversion.

Presets without a known commit use the Hub's main branch at the first conversion. The lock holds
commit and sha256, so that no later conversion silently uses other files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from vsm_fast.errors import ModelError
from vsm_fast.files import sha256_of
from vsm_fast.model.presets import HubFiles
from vsm_fast.model.weights import refuse_pickle

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
LOCK = "sources.json"
_FORMAT = "vsm_fast sources/1"


@contextmanager
def downloading(subject: str, repository: str, command: str) -> Iterator[None]:
    """Turn errors of a Hub download into a ``ModelError`` with the command that fetches it."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    try:
        yield
    except GatedRepoError as error:
        raise ModelError(
            f"{subject} requires an accepted licence: accept it on "
            f"https://huggingface.co/{repository}, run hf auth login, then: {command}"
        ) from error
    except (HfHubHTTPError, ValueError, OSError) as error:
        raise ModelError(
            f"{subject} is not in the local cache and could not be fetched "
            f"({type(error).__name__}). With network access run: {command}"
        ) from error


def fetch(
    source: HubFiles, name: str, *, commit: str | None = None, local_files_only: bool = False
) -> tuple[Path, str]:
    """Fetch one file from the cache or the Hub; respects ``HF_HUB_OFFLINE`` and ``HF_ENDPOINT``.

    Args:
        source: Repository and revision.
        name: Path of the file inside the repository.
        commit: Commit to use instead of ``source.revision``.
        local_files_only: Whether to use the cache only.

    Returns:
        Its path, and the commit of the revision.

    Raises:
        ModelError: If it is not in the cache and cannot be fetched. Names the command.
    """
    from huggingface_hub import hf_hub_download

    with downloading(f"{name} of {source}", source.repository, source.command()):
        path = hf_hub_download(
            source.repository,
            name,
            revision=commit or source.revision,
            local_files_only=local_files_only,
        )
    return Path(path), _root(Path(path), name).name


def _root(path: Path, name: str) -> Path:
    """Return the snapshot folder, named after its commit, of a file in the cache."""
    return path.parents[len(Path(name).parts) - 1]


@dataclass(frozen=True)
class SourceFile:
    """One source file.

    Attributes:
        file: Its path in the repository, or on this machine.
        sha256: Its hash (hex).
        repository: ``"owner/name"``; None for a local file.
        revision: The requested revision; None = the main branch.
        commit: The commit of that revision.
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
    """Finds source files and records them.

    Attributes:
        local_files_only: Whether to use the cache only.
        found: The files so far.
    """

    local_files_only: bool = False
    found: list[SourceFile] = field(default_factory=list)

    def local(self, path: Path, source: HubFiles) -> Path:
        """Record a local file.

        Raises:
            ModelError: If it is missing or a pickle.
        """
        refuse_pickle(path)
        if not path.is_file():
            raise ModelError(
                f"{path} is no file; it should be a copy of {source.files[0]} of "
                f"{source.repository}: {source.command()}"
            )
        self.found.append(SourceFile(path.as_posix(), sha256_of(path)))
        return path

    def hub(self, source: HubFiles) -> list[Path]:
        """Fetch files of the Hub, all of one commit.

        Raises:
            ModelError: If one is not available.
        """
        place = (source.repository, source.revision)
        commits = (e.commit for e in self.found if (e.repository, e.revision) == place)
        commit = next(commits, None)
        paths: list[Path] = []
        for name in source.files:
            path, commit = fetch(
                source, name, commit=commit, local_files_only=self.local_files_only
            )
            paths.append(path)
            self.found.append(SourceFile(name, sha256_of(path), *place, commit))
        return paths

    def folder(self, source: HubFiles, local: Path | None) -> Path:
        """Return the folder of a repository's files, or check a local copy of it.

        Raises:
            ModelError: If files are missing. Names them and the command that fetches them.
        """
        if local is None:
            return _root(self.hub(source)[0], source.files[0])
        missing = [name for name in source.files if not (local / name).is_file()]
        if missing:
            raise ModelError(
                f"{local} lacks {', '.join(missing)}; it should be a copy of {source}: "
                f"{source.command(missing)} --local-dir {local}"
            )
        for name in source.files:
            self.local(local / name, source)
        return local

    def summary(self) -> str:
        """Return repositories and commits, for ``base_revision``."""
        places = [
            f"{e.repository}@{e.commit}" if e.repository else f"{Path(e.file).name} (local)"
            for e in self.found
        ]
        return ", ".join(dict.fromkeys(places))


def check_lock(folder: Path, preset: str, found: list[SourceFile]) -> None:
    """Refuse to replace a converted model by one from changed files of the same names.

    Raises:
        ModelError: If ``folder`` holds something else, or a file has changed.
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
                f"{old.sha256}, now it is {entry.sha256}{commits}. To use the new one, choose "
                f"another --out or remove {folder}."
            )


def write_lock(folder: Path, preset: str, found: list[SourceFile]) -> None:
    """Write ``sources.json``."""
    content = {"format": _FORMAT, "preset": preset, "files": [asdict(entry) for entry in found]}
    (folder / LOCK).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
