"""Single files of Hub repositories: from the local cache, or fetched into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vsm_fast.errors import ModelError


@dataclass(frozen=True)
class HubFiles:
    """Some files of one Hub repository.

    Attributes:
        repository: ``"owner/name"``.
        files: Their paths inside the repository.
        revision: Commit, tag or branch; None = the main branch, because no commit is known here.
    """

    repository: str
    files: tuple[str, ...]
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.repository}@{self.revision}" if self.revision else self.repository

    def command(self, files: Sequence[str] = ()) -> str:
        """The command that fetches ``files``; none = all of them."""
        revision = f" --revision {self.revision}" if self.revision else ""
        return f"hf download {self.repository} {' '.join(files or self.files)}{revision}"

    def cached(self) -> int:
        """How many of the files are in the Hub's cache; asks no network."""
        from huggingface_hub import try_to_load_from_cache

        return sum(
            isinstance(try_to_load_from_cache(self.repository, name, revision=self.revision), str)
            for name in self.files
        )


def fetch(
    source: HubFiles, name: str, *, commit: str | None = None, local_files_only: bool = False
) -> tuple[Path, str]:
    """One file, from the cache or the Hub; ``HF_HUB_OFFLINE`` and ``HF_ENDPOINT`` are respected.

    Args:
        source: Repository and revision.
        name: Path of the file inside the repository.
        commit: Take it from this commit instead of ``source.revision``.
        local_files_only: Never ask the network.

    Returns:
        Its path, and the commit that the revision stands for.

    Raises:
        ModelError: It is not in the cache and cannot be fetched; says how to fetch it.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    revision = commit or source.revision
    wanted = f"{name} of {source}"
    try:
        path = hf_hub_download(
            source.repository, name, revision=revision, local_files_only=local_files_only
        )
    except GatedRepoError as error:
        raise ModelError(
            f"{wanted} is given only to those who accepted the licence: accept it on "
            f"https://huggingface.co/{source.repository}, run hf auth login, then: "
            f"{source.command()}"
        ) from error
    except (HfHubHTTPError, ValueError, OSError) as error:
        raise ModelError(
            f"{wanted} is not in the local cache and could not be fetched "
            f"({type(error).__name__}). With network access run: {source.command()}"
        ) from error
    return Path(path), _commit_of(Path(path), name)


def _commit_of(path: Path, name: str) -> str:
    """The cache keeps a file at ``snapshots/COMMIT/NAME``."""
    return path.parents[len(Path(name).parts) - 1].name
