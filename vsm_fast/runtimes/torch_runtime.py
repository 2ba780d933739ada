"""Networks run by torch itself, eager or compiled."""

from __future__ import annotations

import torch
from torch import Tensor

from vsm_fast.model.devices import precision_name
from vsm_fast.model.network import DescriptorNetwork
from vsm_fast.runtimes.padding import BatchSizes
from vsm_fast.torch_state import pinned


class TorchRuntime:
    """A :class:`Runtime` of a ``DescriptorNetwork``, one operator after the other.

    Args:
        network: In eval mode, on its device and in its precision.
        precision: What to call the precision; None = what the aggregation networks have.
    """

    name = "torch"

    def __init__(self, network: DescriptorNetwork, precision: str | None = None) -> None:
        self.network = network
        weight = network.semantic.mixing_weights
        self.device = weight.device
        self.precision = precision or precision_name(weight.dtype)
        self.concurrent = self.device.type == "cpu"

    @pinned()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Describe images; see :class:`Runtime`."""
        semantic, visual = self.network(images.to(self.device, non_blocking=True))
        return semantic, visual


class CompiledRuntime(TorchRuntime):
    """The same through ``torch.compile``, which fuses what lies between the convolutions.

    Each batch size is compiled when it first comes, which takes from half a minute for the
    embedded model to several minutes; on CUDA the launches of a batch become one graph.

    Args:
        network: As for :class:`TorchRuntime`.
        precision: As for :class:`TorchRuntime`.
    """

    name = "torch-compile"

    def __init__(self, network: DescriptorNetwork, precision: str | None = None) -> None:
        super().__init__(network, precision)
        self.concurrent = False  # the first call of each size compiles
        self._sizes = BatchSizes()
        mode = "max-autotune" if self.device.type == "cuda" else None
        self._compiled = torch.compile(network, mode=mode, dynamic=False)

    @pinned()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Describe images; see :class:`Runtime`."""
        # In inference mode all batches have the same dispatch keys, and none is compiled again.
        with torch.inference_mode():
            batch = self._sizes.padded(images.to(self.device, non_blocking=True))
            semantic, visual = self._compiled(batch)
        # Copies outside of it are ordinary tensors, and a CUDA graph writes into the same memory.
        return semantic[: len(images)].clone(), visual[: len(images)].clone()
