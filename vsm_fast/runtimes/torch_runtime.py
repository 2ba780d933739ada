"""Networks in torch: eager, compiled, or with 8-bit linear layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vsm_fast.errors import ModelError
from vsm_fast.extras import required
from vsm_fast.model.devices import precision_name
from vsm_fast.model.network import DescriptorNetwork
from vsm_fast.runtimes.exported import padded
from vsm_fast.torch_state import pinned

QUANTIZED = ("int8", "float8")


class TorchRuntime:
    """A :class:`Runtime` that runs a ``DescriptorNetwork`` eagerly.

    Args:
        network: In eval mode, on its device and in its precision.
        precision: Name of the precision; None = that of the aggregation networks.
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
        """Extract descriptors; see :class:`Runtime`."""
        semantic, visual = self.network(images.to(self.device, non_blocking=True))
        return semantic, visual


class CompiledRuntime(TorchRuntime):
    """A :class:`Runtime` that runs a ``DescriptorNetwork`` through ``torch.compile``.

    The first batch of each size is compiled, which takes half a minute for the embedded model and
    up to several minutes for others; smaller batches are padded to a compiled size. On CUDA the
    launches of a batch become one graph.

    Args:
        network: As for :class:`TorchRuntime`.
        precision: As for :class:`TorchRuntime`.
    """

    name = "torch-compile"

    def __init__(self, network: DescriptorNetwork, precision: str | None = None) -> None:
        super().__init__(network, precision)
        self.concurrent = False  # the first call per size compiles
        self._sizes: set[int] = set()
        mode = "max-autotune" if self.device.type == "cuda" else None
        self._compiled = torch.compile(network, mode=mode, dynamic=False)

    @pinned()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Extract descriptors; see :class:`Runtime`."""
        count = len(images)
        size = min((n for n in self._sizes if n >= count), default=count)
        self._sizes.add(size)
        # In inference mode all batches have the same dispatch keys: no recompilation.
        with torch.inference_mode():
            batch = padded(images.to(self.device, non_blocking=True), size)
            semantic, visual = self._compiled(batch)
        # Copied outside: ordinary tensors, and a CUDA graph overwrites its outputs.
        return semantic[:count].clone(), visual[:count].clone()


def quantize_linear(network: nn.Module, precision: str) -> None:
    """Quantise all linear layers to 8 bits in place: weights now, activations on the fly.

    Convolutions keep their precision, so this is for backbones with attention. It gains 9 % on
    the 2-core CPU of ``docs/models.md``; for GPUs see the checklist in ``benchmarks/gpu``.

    Args:
        network: Frozen, on its device and in the precision of the other layers.
        precision: One of ``QUANTIZED``; ``"float8"`` needs an NVIDIA GPU of compute capability
            8.9 or more.

    Raises:
        ModelError: If there is no linear layer, or the device has no such arithmetic.
        ImportError: If torchao is not installed.
    """
    if not any(isinstance(module, nn.Linear) for module in network.modules()):
        raise ModelError(
            f"dtype {precision!r} is for linear layers, and this network has none; use 'auto'."
        )
    device = next(network.parameters()).device
    if precision == "float8" and not (
        device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)
    ):
        raise ModelError(
            f"dtype 'float8' needs an NVIDIA GPU of compute capability 8.9 or more; the network "
            f"is on {device}. Use 'int8' or 'auto'."
        )
    torchao = required("torchao.quantization", f"dtype {precision!r}")
    configs = {
        "int8": torchao.Int8DynamicActivationInt8WeightConfig,
        "float8": torchao.Float8DynamicActivationFloat8WeightConfig,
    }
    torchao.quantize_(network, configs[precision]())
