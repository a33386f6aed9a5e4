"""Calls recorded as CUDA graphs: what they give, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from retalking_core.networks import inference
from retalking_core.networks.inference import CudaGraphCall

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: graphs exist on CUDA only")


class Mixed(nn.Module):
    """A convolution, an FFT and an option that is a list, as ENet has them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: Tensor, noises: list[Tensor | None]) -> tuple[Tensor, Tensor]:
        y = self.conv(x) + sum(noise for noise in noises if noise is not None)
        return torch.fft.irfftn(torch.fft.rfftn(y, dim=(-2, -1)) * 2, s=y.shape[-2:], dim=(-2, -1)), y.mean()


def test_tensors_are_taken_out_and_put_back_wherever_they_are() -> None:
    first, second = torch.zeros(2, 3), torch.ones(4, dtype=torch.float16)
    tensors: list[Tensor] = []
    shape = inference._taken_apart(((first, None), {"noises": [second], "scale": 2}), tensors)
    assert [id(tensor) for tensor in tensors] == [id(first), id(second)]
    positional, options = inference._put_together(shape, iter(["a", "b"]))
    assert positional == ["a", None]
    assert options == {"noises": ["b"], "scale": 2}
    other = inference._taken_apart(((first.half(), None), {"noises": [second], "scale": 2}), [])
    assert other != shape


@needs_cuda
def test_a_replay_gives_what_a_call_gives() -> None:
    torch.manual_seed(0)
    network = Mixed().cuda().eval()
    with torch.inference_mode():
        call = CudaGraphCall(network)
        for _ in range(3):
            x, noise = torch.randn(4, 3, 20, 20, device="cuda"), torch.randn(1, 1, 20, 20, device="cuda")
            expected = network(x, noises=[noise, None])
            for result, wanted in zip(call(x, noises=[noise, None]), expected, strict=True):
                torch.testing.assert_close(result, wanted)


@needs_cuda
def test_recordings_that_share_memory_do_not_disturb_each_other() -> None:
    torch.manual_seed(1)
    with torch.inference_mode():
        networks = [Mixed().cuda().eval() for _ in range(3)]
        calls = [CudaGraphCall(network) for network in networks]
        x = torch.randn(2, 3, 64, 64, device="cuda")
        for k in (0, 1, 2, 1, 0, 2):
            torch.testing.assert_close(calls[k](x, noises=[x[:1, :1]])[0], networks[k](x, noises=[x[:1, :1]])[0])


@needs_cuda
def test_recordings_can_go_and_be_made_again() -> None:
    with torch.inference_mode():
        network, x = Mixed().cuda().eval(), torch.randn(2, 3, 16, 16, device="cuda")
        for _ in range(3):
            calls = [CudaGraphCall(network), CudaGraphCall(network)]
            for call in calls:
                torch.testing.assert_close(call(x, noises=[None])[0], network(x, noises=[None])[0])
            del calls, call


@needs_cuda
def test_another_shape_is_refused() -> None:
    with torch.inference_mode():
        call = CudaGraphCall(Mixed().cuda().eval())
        x = torch.randn(2, 3, 16, 16, device="cuda")
        call(x, noises=[x[:1, :1]])
        with pytest.raises(ValueError, match="recorded for"):
            call(x[:1], noises=[x[:1, :1]])
