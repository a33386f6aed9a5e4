"""What the allocator is told, and when it is left alone."""

from __future__ import annotations

import pytest
import torch

from retalking_core.networks.inference import OPERATORS_CHOICE, enable_expandable_segments

GPU = torch.device("cuda")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    settings: list[str] = []
    for name in OPERATORS_CHOICE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", settings.append)
    return settings


def named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: name)


def test_segments_grow_on_a_whole_gpu(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch, "NVIDIA H100 80GB HBM3")
    assert enable_expandable_segments(GPU)
    assert told == ["expandable_segments:True"]


def test_a_slice_of_a_gpu_is_left_alone(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch, "NVIDIA A100-SXM4-40GB MIG 1g.5gb")
    assert not enable_expandable_segments(GPU)
    assert told == []


@pytest.mark.parametrize("name", OPERATORS_CHOICE)
def test_the_operators_choice_stays(name: str, told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch, "NVIDIA H100 80GB HBM3")
    monkeypatch.setenv(name, "expandable_segments:False")
    assert not enable_expandable_segments(GPU)
    assert told == []


def test_a_cpu_has_no_allocator_to_tell(told: list[str]) -> None:
    assert not enable_expandable_segments(torch.device("cpu"))
    assert told == []


def test_torch_knows_the_setting() -> None:
    """Of a private name: a torch that lacks it, or does not know the word, is found here and not on a GPU."""
    torch._C._accelerator_setAllocatorSettings("expandable_segments:True")
    with pytest.raises((ValueError, RuntimeError)):
        torch._C._accelerator_setAllocatorSettings("growing_segments:True")
