"""Packed semantic and visual descriptors of many subjects.

Only grid cells inside a subject's mask are stored. The rows of all images are consecutive and
``offsets`` holds their bounds, so subjects of different sizes need no padding and one reference
serves many pairs without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vsm_fast.torch_state import pinned

if TYPE_CHECKING:
    from vsm_fast.identity import ModelIdentity
    from vsm_fast.images.subjects import Subject


@dataclass(frozen=True)
class Descriptors:
    """Descriptors of ``B`` subjects with ``R`` rows (points) in total.

    Attributes:
        semantic: float [R, D_s], unit length; rows of one image in row-major cell order.
        visual: float [R, D_v], unit length, same rows as ``semantic``.
        offsets: int64 [B + 1] on the CPU; image ``b`` owns rows ``offsets[b]:offsets[b+1]``.
            An image without a usable subject has an empty range.
        cells: int64 [R] on the CPU; row-major index of each row's cell in ``grid``.
        grid: (rows, columns) of the descriptor grid.
        subjects: [B], names, statuses and flags of the images; empty if unknown.
        identity: Identity of their model, checked before matching. None for descriptors from
            other sources, which are checked by grid and channels only.
    """

    semantic: Tensor
    visual: Tensor
    offsets: Tensor
    cells: Tensor
    grid: tuple[int, int]
    subjects: tuple[Subject, ...] = ()
    identity: ModelIdentity | None = None

    def __post_init__(self) -> None:
        rows = self.semantic.shape[0]
        if self.visual.shape[0] != rows or self.cells.shape[0] != rows:
            raise ValueError(
                f"semantic, visual and cells must have equally many rows; got {rows}, "
                f"{self.visual.shape[0]} and {self.cells.shape[0]}."
            )
        if self.offsets.ndim != 1 or len(self.offsets) == 0 or int(self.offsets[-1]) != rows:
            raise ValueError(
                f"offsets must be 1-D, start at 0 and end at the number of rows ({rows}); "
                f"got {self.offsets.tolist()[:8]}."
            )
        if self.subjects and len(self.subjects) != len(self):
            raise ValueError(
                f"subjects must be empty or one per image ({len(self)}); got {len(self.subjects)}."
            )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def points(self, image: int) -> int:
        """Return the number of points (masked cells) of one image."""
        return int(self.offsets[image + 1] - self.offsets[image])

    def rows(self, image: int) -> slice:
        """Return the rows of one image in ``semantic``, ``visual`` and ``cells``."""
        return slice(int(self.offsets[image]), int(self.offsets[image + 1]))

    @property
    def nbytes(self) -> int:
        """Size of the two descriptor tensors in bytes."""
        return self.semantic.nbytes + self.visual.nbytes

    @pinned()
    def select(self, images: Sequence[int]) -> Descriptors:
        """Return a copy of the descriptors of ``images``, in that order."""
        parts = [self.rows(image) for image in images]
        counts = torch.tensor([0, *(part.stop - part.start for part in parts)])
        parts = parts or [slice(0)]
        return replace(
            self,
            semantic=torch.cat([self.semantic[part] for part in parts]),
            visual=torch.cat([self.visual[part] for part in parts]),
            offsets=counts.cumsum(0),
            cells=torch.cat([self.cells[part] for part in parts]),
            subjects=tuple(self.subjects[image] for image in images) if self.subjects else (),
        )

    @pinned()
    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Descriptors:
        """Return descriptors with both descriptor tensors on ``device`` and in ``dtype``."""
        return replace(
            self,
            semantic=self.semantic.to(device, dtype),
            visual=self.visual.to(device, dtype),
        )

    @staticmethod
    @pinned()
    def cat(parts: Sequence[Descriptors]) -> Descriptors:
        """Concatenate batches; subjects are kept if every part has them.

        Raises:
            ValueError: If ``parts`` is empty, or parts differ in grid or identity.
        """
        if not parts:
            raise ValueError("Descriptors.cat needs at least one part; got none.")
        grids = {part.grid for part in parts}
        if len(grids) != 1:
            raise ValueError(f"Descriptors.cat needs one grid; got {sorted(grids)}.")
        identities = {part.identity for part in parts}
        if len(identities) != 1:
            names = sorted("none" if one is None else repr(one.name) for one in identities)
            raise ValueError(
                f"Descriptors.cat needs one identity; got {len(identities)} (models "
                f"{', '.join(names)}). Describe all images with one model, runtime and precision."
            )
        counts = torch.cat([torch.zeros(1, dtype=torch.int64), *(p.offsets.diff() for p in parts)])
        complete = all(len(part.subjects) == len(part) for part in parts)
        return replace(
            parts[0],
            semantic=torch.cat([part.semantic for part in parts]),
            visual=torch.cat([part.visual for part in parts]),
            offsets=counts.cumsum(0),
            cells=torch.cat([part.cells for part in parts]),
            subjects=tuple(s for part in parts for s in part.subjects) if complete else (),
        )

    @staticmethod
    @pinned()
    def pack(semantic: Tensor, visual: Tensor, masks: Tensor) -> Descriptors:
        """Pack the masked cells of dense descriptors.

        Args:
            semantic: float [B, D_s, h, w].
            visual: float [B, D_v, h, w].
            masks: bool [B, h, w], True on the subject.
        """
        batch, _, height, width = semantic.shape
        if masks.shape != (batch, height, width):
            raise ValueError(
                f"masks must be [{batch}, {height}, {width}] like the descriptors; "
                f"got {list(masks.shape)}."
            )
        flat = masks.reshape(batch, -1)
        selected = flat.to(semantic.device)
        return Descriptors(
            semantic.flatten(2).transpose(1, 2)[selected],
            visual.flatten(2).transpose(1, 2)[selected],
            torch.cat([torch.zeros(1, dtype=torch.int64), flat.sum(1).cpu()]).cumsum(0),
            flat.nonzero()[:, 1].cpu(),
            (height, width),
        )
