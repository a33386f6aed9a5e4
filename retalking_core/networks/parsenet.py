"""ParseNet: labels the parts of a face, 19 classes, 512x512. The network is facexlib's.

Compared with the original on the same weights (network specification, page "parsenet"): same keys, difference 0.
"""

from __future__ import annotations

import torch
from facexlib.parsing.parsenet import ConvLayer, ResidualBlock
from facexlib.parsing.parsenet import ParseNet as FacexlibParseNet
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from retalking_core.networks.convolutions import convolution_of
from retalking_core.networks.doubling import NEAREST, DoublingConv2d

CLASSES = 19
# The tensor cores take output channels by eights, cuDNN's quickest kernels by 32: 22 take 0.89 ms, 32 take 0.60 (H100).
HEAD_CHANNELS = 32


class ParseNet(FacexlibParseNet):
    """image `[B, 3, 512, 512]`, RGB in -1..1, to (logits `[B, 19, 512, 512]`, image `[B, 3, 512, 512]`).

    Classes: 0 background, 1 skin, 2 nose, 3 glasses, 4 and 5 eyes, 6 and 7 brows, 8 and 9 ears, 10 mouth, 11 upper lip,
    12 lower lip, 13 hair, 14 hat, 15 earring, 16 necklace, 17 neck, 18 cloth.
    """

    def __init__(self) -> None:
        super().__init__(in_size=512, out_size=512, parsing_ch=CLASSES)
        self.heads: nn.Module | None = None

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        if self.heads is None:
            return super().forward(image)
        seen = self.encoder(image)
        both = self.heads(self.decoder(seen + self.body(seen)))
        return both[:, :CLASSES], both[:, CLASSES : CLASSES + 3]

    def rearrange(self) -> None:
        """The same function in fewer passes: batch norms inside their convolutions, doubled pictures never made, the
        two heads side by side. On an H100 in float16, compiled: 16.9 instead of 24.9 ms a batch of 16."""
        self.encoder[0] = _folded_layer(self.encoder[0])
        for part in (self.encoder[1:], self.body):
            for block in part:
                _fold_block(block)
        for k, block in enumerate(self.decoder):
            self.decoder[k] = DoublingBlock(block)
        self.heads = _side_by_side(self.out_mask_conv.conv2d, self.out_img_conv.conv2d)
        del self.out_mask_conv, self.out_img_conv


class DoublingBlock(nn.Module):
    """A residual block that doubles the picture; its shortcut and its main path begin as one convolution."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        shortcut, main = block.shortcut_func.conv2d, _with_norm(block.conv1)
        self.both = DoublingConv2d(*_stacked(shortcut, main), NEAREST)
        self.activation = block.conv1.relu.func
        self.conv2 = _folded_layer(block.conv2)

    def forward(self, x: Tensor) -> Tensor:
        shortcut, main = self.both(x).chunk(2, dim=1)
        return shortcut + self.conv2(self.activation(main))


def _fold_block(block: ResidualBlock) -> None:
    block.conv1, block.conv2 = _folded_layer(block.conv1), _folded_layer(block.conv2)
    if isinstance(block.shortcut_func, ConvLayer):
        block.shortcut_func = _folded_layer(block.shortcut_func)


def _folded_layer(layer: ConvLayer) -> nn.Sequential:
    """Reflection, convolution, activation: of a layer that does not double the picture."""
    parts = [layer.reflection_pad, _with_norm(layer)]
    return nn.Sequential(*parts, *([layer.relu.func] if isinstance(layer.relu.func, nn.Module) else []))


def _with_norm(layer: ConvLayer) -> nn.Conv2d:
    norm = layer.norm.norm
    return fuse_conv_bn_eval(layer.conv2d, norm) if isinstance(norm, nn.BatchNorm2d) else layer.conv2d


def _side_by_side(first: nn.Conv2d, second: nn.Conv2d) -> nn.Sequential:
    """Two convolutions of one input, reflected, as one; filled up with channels that nobody reads."""
    weight, bias = _stacked(first, second)
    missing = HEAD_CHANNELS - len(bias)
    conv = convolution_of(F.pad(weight, (0, 0, 0, 0, 0, 0, 0, missing)), F.pad(bias, (0, missing)))
    return nn.Sequential(nn.ReflectionPad2d(1), conv)


def _stacked(first: nn.Conv2d, second: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Weights and biases of one convolution that gives the channels of both."""
    return torch.cat([first.weight, second.weight]), torch.cat([first.bias, second.bias])
