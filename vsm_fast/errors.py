"""Statuses and flags that a row of a result can have, and the errors behind them."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """Why a pair has a score or has none. The value is what tables contain."""

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
    """Why to look at a pair before its score is believed. The value is what tables contain."""

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
    """Base class of the errors that vsm_fast raises on purpose."""


class InputError(VSMError, ValueError):
    """One image or mask cannot be used; ``status`` is what its row will say."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


class PairingError(VSMError, ValueError):
    """References and generations cannot be paired without guessing."""


class ResultsError(VSMError, ValueError):
    """A table of results cannot be read, lacks columns, or contradicts itself."""


class ModelError(VSMError, RuntimeError):
    """A model folder or its weights are missing, incomplete or altered."""


class TrainingError(VSMError, RuntimeError):
    """A training run or its features belong to other settings, or there is nothing to train on."""


# What reading JSON of any content into a record can raise.
WRONG_JSON = (
    OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError,
)  # fmt: skip


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, a GPU's or the machine's: less at a time may fit."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's
        return True
    # What torch's allocator of the CPU says has no class of its own.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
