"""Networks that maintained libraries define: facexlib, face-alignment, spandrel, torchvision.

Each was compared with the release that the original pins, on the same weights: equal keys and a difference of 0, unless
its docstring says otherwise.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from face_alignment.detection.sfd.net_s3fd import s3fd
from face_alignment.models import FAN
from facexlib.detection.retinaface import RetinaFace as FacexlibRetinaFace
from facexlib.parsing.parsenet import ConvLayer, ResidualBlock
from facexlib.parsing.parsenet import ParseNet as FacexlibParseNet
from facexlib.recognition.arcface_arch import Backbone
from spandrel.architectures.GFPGAN import GFPGAN as SpandrelGFPGAN
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import inception, resnet50

from retalking_core.networks.layers import NEAREST, DoublingConv2d, ModulatedConv2d, StyleConv, convolution_of


class ArcFace(Backbone):
    """ArcFace IR-SE50: embeds a face for identity similarity (Deng et al., CVPR 2019); facexlib's network.

    Built directly: facexlib's `init_recognition_model` moves it to CUDA and ignores its device argument.

    image `[B, 3, 112, 112]`, RGB in -1..1, aligned to the five-point template, to `[B, 512]` of unit length."""

    def __init__(self) -> None:
        super().__init__(num_layers=50, drop_ratio=0.6, mode="ir_se")


# identity, expression, texture, Euler angles (radians), lighting, translation x and y, translation z
HEADS = (80, 64, 80, 3, 27, 2, 1)
FEATURES = 2048


class Deep3D(nn.Module):
    """257 3DMM coefficients of an aligned face (Deng et al., CVPR-W 2019): torchvision's ResNet-50 and seven heads.

    image `[B, 3, 224, 224]`, RGB in 0..1, *not* normalized by ImageNet's statistics, to coefficients `[B, 257]`."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = resnet50(weights=None)
        self.backbone.fc = nn.Identity()
        self.final_layers = nn.ModuleList(nn.Conv2d(FEATURES, length, 1) for length in HEADS)

    def forward(self, image: Tensor) -> Tensor:
        pooled = self.backbone(image)[:, :, None, None]
        return torch.cat([head(pooled) for head in self.final_layers], dim=1).flatten(1)


class FAN2D(FAN):
    """2DFAN4: heat maps of 68 landmarks (Bulat and Tzimiropoulos, ICCV 2017); face-alignment's network.

    Difference 0 from the original's release with `flip_input=False`.

    image `[B, 3, 256, 256]`, RGB in 0..1, to four sets of heat maps `[B, 68, 64, 64]`, of which the last counts."""

    def __init__(self) -> None:
        super().__init__(4)


class GFPGAN(SpandrelGFPGAN):
    """GFPGAN v1.3, "clean": restores a face, 512x512 (Wang et al., CVPR 2021); spandrel's network.

    Its modulated convolutions are replaced by ours, which are the same function and keep the keys: spandrel's make one
    group of every sample, at which a GPU runs far below its rate, and go on in float32 once noise was added.

    image `[B, 3, 512, 512]`, RGB in -1..1, to the restored face, alike but unbounded.

    The noise is the one stored in the checkpoint, which keeps the grain of a video still; the original draws it anew
    for every picture. spandrel's *descriptor* is not used, as it clamps to 0..1 and so cuts off the dark half.
    """

    def __init__(self) -> None:
        super().__init__(
            out_size=512,
            num_style_feat=512,
            channel_multiplier=2,
            decoder_load_path=None,
            fix_decoder=False,
            num_mlp=8,
            input_is_latent=True,
            different_w=True,
            narrow=1,
            sft_half=True,
        )
        decoder = self.stylegan_decoder
        decoder.style_conv1 = _ours(decoder.style_conv1)
        decoder.style_convs = nn.ModuleList(_ours(conv) for conv in decoder.style_convs)
        for to_rgb in (decoder.to_rgb1, *decoder.to_rgbs):
            theirs = to_rgb.modulated_conv
            to_rgb.modulated_conv = ModulatedConv2d(theirs.in_channels, 3, theirs.kernel_size, demodulate=False)

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image, return_rgb=False, randomize_noise=False)[0]

    def optimize_for_inference(self) -> None:
        """The large doublings of the decoder, to 128, 256 and 512, inside their convolutions."""
        for conv in self.stylegan_decoder.style_convs[-6::2]:
            conv.modulated_conv.fuse_upsample(to_the_border=True)


def _ours(theirs: Any) -> StyleConv:
    """Before weights are loaded."""
    conv = theirs.modulated_conv
    return StyleConv(conv.in_channels, conv.out_channels, up=conv.sample_mode == "upsample")


CLASSES = 19
# The tensor cores take output channels by eights, cuDNN's quickest kernels by 32: 22 take 0.89 ms, 32 take 0.60 (H100).
HEAD_CHANNELS = 32


class ParseNet(FacexlibParseNet):
    """Labels the parts of a face, 19 classes, 512x512; facexlib's network.

    image `[B, 3, 512, 512]`, RGB in -1..1, to (logits `[B, 19, 512, 512]`, image `[B, 3, 512, 512]`).

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

    def optimize_for_inference(self) -> None:
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
    """Two convolutions of one input, reflected, as one; padded with unused channels."""
    weight, bias = _stacked(first, second)
    missing = HEAD_CHANNELS - len(bias)
    conv = convolution_of(F.pad(weight, (0, 0, 0, 0, 0, 0, 0, missing)), F.pad(bias, (0, missing)))
    return nn.Sequential(nn.ReflectionPad2d(1), conv)


def _stacked(first: nn.Conv2d, second: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Weights and biases of one convolution that gives the channels of both."""
    biases = [conv.bias for conv in (first, second) if conv.bias is not None]
    return torch.cat([first.weight, second.weight]), torch.cat(biases)


class RetinaFace(FacexlibRetinaFace):
    """RetinaFace with a ResNet-50: boxes and five points of every face (Deng et al., CVPR 2020); facexlib's network.

    image `[B, 3, H, W]`, BGR in 0..255 minus (104, 117, 123), to raw (boxes `[B, N, 4]`, probabilities `[B, N, 2]`,
    landmarks `[B, N, 10]`). `detect_faces` takes a BGR u8 picture and decodes.
    """

    def __init__(self) -> None:
        with warnings.catch_warnings():
            # facexlib still says `pretrained=False`; torchvision renamed the argument.
            warnings.simplefilter("ignore", UserWarning)
            super().__init__("resnet50", device=torch.empty(0).device)

    def detect_faces(self, *args: object, **kwargs: object) -> object:
        # facexlib remembers the device of its construction; the weights may have moved since.
        self.device = next(self.parameters()).device
        self.mean_tensor = torch.tensor([104.0, 117.0, 123.0], device=self.device).view(1, 3, 1, 1)
        return super().detect_faces(*args, **kwargs)


class S3FD(s3fd):
    """S3FD: boxes of faces (Zhang et al., ICCV 2017); face-alignment's network.

    image `[B, 3, H, W]` in 0..255 minus (104, 117, 123) to twelve tensors: for each of six levels (strides 4..128)
    two class scores and four box offsets a position.

    Trained on BGR; the original feeds RGB with the BGR means.
    """


INCEPTION_PX = 299


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class _BlockA(inception.InceptionA):
    def _forward(self, x: Tensor) -> list[Tensor]:
        return [
            self.branch1x1(x),
            self.branch5x5_2(self.branch5x5_1(x)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.branch_pool(_average(x)),
        ]


class _BlockC(inception.InceptionC):
    def _forward(self, x: Tensor) -> list[Tensor]:
        deep = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        return [
            self.branch1x1(x),
            self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))),
            self.branch7x7dbl_5(self.branch7x7dbl_4(deep)),
            self.branch_pool(_average(x)),
        ]


class _BlockE(inception.InceptionE):
    def _pool(self, x: Tensor) -> Tensor:
        return _average(x)

    def _forward(self, x: Tensor) -> list[Tensor]:
        wide = self.branch3x3_1(x)
        deep = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return [
            self.branch1x1(x),
            torch.cat([self.branch3x3_2a(wide), self.branch3x3_2b(wide)], 1),
            torch.cat([self.branch3x3dbl_3a(deep), self.branch3x3dbl_3b(deep)], 1),
            self.branch_pool(self._pool(x)),
        ]


class _LastBlockE(_BlockE):
    def _pool(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, stride=1, padding=1)


class FIDInception(inception.Inception3):
    """image `[B, 3, H, W]`, RGB in 0..1, to `[B, 2048]`: the last pooling layer.

    Any size: brought to 299 x 299 here, by bilinear interpolation with half-pixel centers and no antialiasing, as FID
    is defined.
    """

    def __init__(self) -> None:
        super().__init__(num_classes=1008, aux_logits=False, init_weights=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _BlockA(192, 32), _BlockA(256, 64), _BlockA(288, 64)
        self.Mixed_6b, self.Mixed_6c = _BlockC(768, 128), _BlockC(768, 160)
        self.Mixed_6d, self.Mixed_6e = _BlockC(768, 160), _BlockC(768, 192)
        self.Mixed_7b, self.Mixed_7c = _BlockE(1280), _LastBlockE(2048)

    def forward(self, image: Tensor) -> Tensor:
        x = 2 * F.interpolate(image, (INCEPTION_PX, INCEPTION_PX), mode="bilinear", align_corners=False) - 1
        for name, child in self.named_children():
            if name in ("avgpool", "dropout", "fc"):
                break
            x = child(x)
        return x.mean(dim=(2, 3))
