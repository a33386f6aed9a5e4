"""GFPGAN v1.3, "clean": restores a face, 512x512 (Wang et al., CVPR 2021). The network is spandrel's.

Compared with the original on the same weights (network specification, page "gfpgan"): same keys, difference 0. Its
modulated convolutions are replaced by ours, which are the same function and keep the keys: theirs make one group of
every sample, at which a GPU runs far below its rate, and go on in float32 once noise was added.
"""

from __future__ import annotations

from spandrel.architectures.GFPGAN import GFPGAN as SpandrelGFPGAN
from torch import Tensor, nn

from retalking_core.networks.modulation import ModulatedConv2d, StyleConv


class GFPGAN(SpandrelGFPGAN):
    """image `[B, 3, 512, 512]`, RGB in -1..1, to the restored face, alike but unbounded.

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

    def rearrange(self) -> None:
        """The large doublings of the decoder, to 128, 256 and 512, inside their convolutions."""
        for conv in self.stylegan_decoder.style_convs[-6::2]:
            conv.modulated_conv.double_within(to_the_border=True)


def _ours(theirs: nn.Module) -> StyleConv:
    """Before weights are loaded."""
    conv = theirs.modulated_conv
    return StyleConv(conv.in_channels, conv.out_channels, up=conv.sample_mode == "upsample")
