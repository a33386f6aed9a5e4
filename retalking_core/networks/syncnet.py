"""SyncNet: embeds five mouth frames and 0.2 s of speech so that they lie close when in sync.

Chung and Zisserman, ACCV-W 2016. Used by the LSE-C and LSE-D scores only. Specified in the network
specification, page "syncnet".
"""

from __future__ import annotations

from torch import Tensor, nn


def _conv2d(
    in_channels: int, out_channels: int, kernel: int | tuple[int, int] = 3, padding: int = 1
) -> list[nn.Module]:
    return [nn.Conv2d(in_channels, out_channels, kernel, padding=padding), nn.BatchNorm2d(out_channels), nn.ReLU()]


def _conv3d(
    in_channels: int, out_channels: int, kernel: tuple[int, int, int], stride: int = 1, padding: int = 0
) -> list[nn.Module]:
    """kernel: time, height, width. Stride and padding act on height and width only."""
    conv = nn.Conv3d(in_channels, out_channels, kernel, stride=(1, stride, stride), padding=(0, padding, padding))
    return [conv, nn.BatchNorm3d(out_channels), nn.ReLU()]


def _pool3d(padding: int = 0) -> nn.Module:
    return nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, padding, padding))


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024))


class SyncNet(nn.Module):
    """lip `[B, 3, 5, 224, 224]`: five face frames, BGR, 0..255. mfcc `[B, 1, 13, 20]`: 13 MFCCs x 20 steps of 10 ms.

    Result: lip and audio embedding, each `[B, 1024]`, not normalized.
    """

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_conv2d(1, 64),
            nn.MaxPool2d(1),  # an identity that keeps the numbering of the checkpoint
            *_conv2d(64, 192),
            nn.MaxPool2d(3, stride=(1, 2)),
            *_conv2d(192, 384),
            *_conv2d(384, 256),
            *_conv2d(256, 256),
            nn.MaxPool2d(3, stride=2),
            *_conv2d(256, 512, kernel=(5, 4), padding=0),
        )
        self.netfcaud = _head()
        self.netfclip = _head()
        self.netcnnlip = nn.Sequential(
            *_conv3d(3, 96, (5, 7, 7), stride=2),
            _pool3d(),
            *_conv3d(96, 256, (1, 5, 5), stride=2, padding=1),
            _pool3d(padding=1),
            *_conv3d(256, 256, (1, 3, 3), padding=1),
            *_conv3d(256, 256, (1, 3, 3), padding=1),
            *_conv3d(256, 256, (1, 3, 3), padding=1),
            _pool3d(),
            *_conv3d(256, 512, (1, 6, 6)),
        )

    def lip_feature(self, lip: Tensor) -> Tensor:
        """`[B, 512]`, the lips before the last layers."""
        return self.netcnnlip(lip).flatten(1)

    def embed_lip(self, lip: Tensor) -> Tensor:
        return self.netfclip(self.lip_feature(lip))

    def embed_audio(self, mfcc: Tensor) -> Tensor:
        return self.netfcaud(self.netcnnaud(mfcc).flatten(1))

    def forward(self, lip: Tensor, mfcc: Tensor) -> tuple[Tensor, Tensor]:
        return self.embed_lip(lip), self.embed_audio(mfcc)
