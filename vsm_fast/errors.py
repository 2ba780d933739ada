"""Statuses and flags of result rows, and error classes."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """Status of a pair: scored, or the reason for a missing score. Tables contain the value."""

    OK = "ok"
    NO_MATCH = "no_semantic_match"
    EMPTY_MASK = "empty_mask"
    NO_SUBJECT = "no_subject_found"
    MISSING_FILE = "missing_file"
    UNREADABLE = "unreadable_image"
    TOO_LARGE = "image_too_large"
    BAD_VALUES = "bad_pixel_values"
    BAD_MASK = "bad_mask"

    def __str__(self) -> str:
        return self.value


class Flag(StrEnum):
    """Reason to inspect a pair before trusting its score. Tables contain the value."""

    NO_MASK = "no_mask"
    TINY_SUBJECT = "tiny_subject"
    ORIENTATION_DOUBTFUL = "orientation_doubtful"
    DOUBTFUL_MASK = "doubtful_mask"
    CUT_OFF = "cut_off"
    SEVERAL_SUBJECTS = "several_subjects"
    COPY_OF_REFERENCE = "copy_of_reference"
    ASPECT_DISTORTED = "aspect_distorted"
    NEARLY_GREY = "nearly_grey"

    def __str__(self) -> str:
        return self.value


class VSMError(Exception):
    """Base class of the errors of vsm_fast."""


class InputError(VSMError, ValueError):
    """Unusable image or mask; ``status`` is the status of its row."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


class PairingError(VSMError, ValueError):
    """References and generated images cannot be paired unambiguously."""


class ResultsError(VSMError, ValueError):
    """Result table that is unreadable, incomplete or inconsistent."""


class ModelError(VSMError, RuntimeError):
    """Model folder or weights that are missing, incomplete or altered."""


class TrainingError(VSMError, RuntimeError):
    """Training run or features of other settings, or a training set without usable pairs."""


# Exceptions of parsing arbitrary JSON into a record.
WRONG_JSON = (
    OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError,
    NameError,  # diffusers: a local that no branch sets for an unknown option
)  # fmt: skip


def out_of_memory(error: BaseException) -> bool:
    """Return whether GPU or host memory ran out, so that a smaller batch may fit."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's
        return True
    # Torch's CPU allocator raises no class of its own.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
