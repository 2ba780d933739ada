"""Statuses that a row of a result can have, and the errors behind them."""

from __future__ import annotations

from enum import Enum


class Status(str, Enum):
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
