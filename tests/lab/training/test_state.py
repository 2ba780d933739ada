from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from vsm_fast.lab.training.state import load_state, read_notes, read_step, save_state


def _step(model: nn.Linear, optimizer: torch.optim.Optimizer, step: int) -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def _fresh() -> tuple[nn.Linear, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2)


def test_a_resumed_run_repeats_the_uninterrupted_one_bit_for_bit(tmp_path: Path) -> None:
    whole, optimizer = _fresh()
    for step in range(6):
        _step(whole, optimizer, step)

    first, optimizer = _fresh()
    for step in range(3):
        _step(first, optimizer, step)
    path = tmp_path / "run" / "state.safetensors"
    save_state(path, 3, {"model": first}, optimizer)

    torch.manual_seed(99)
    resumed = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(resumed.parameters(), lr=1e-2)
    start = load_state(path, {"model": resumed}, optimizer)
    assert start == 3
    for step in range(start, 6):
        _step(resumed, optimizer, step)
    assert torch.equal(resumed.weight, whole.weight)
    assert torch.equal(resumed.bias, whole.bias)


def test_no_file_is_a_fresh_start(tmp_path: Path) -> None:
    model, _ = _fresh()
    before = model.weight.clone()
    assert load_state(tmp_path / "none.safetensors", {"model": model}) == 0
    assert torch.equal(model.weight, before)


def test_step_and_notes_are_read_without_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    assert (read_step(path), read_notes(path)) == (0, None)
    save_state(path, 7, {"net": torch.nn.Linear(2, 1)}, notes={"a": [1]})
    assert read_step(path) == load_state(path, {}) == 7
    assert read_notes(path) == {"a": [1]}
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]
