"""GFPGAN v1.3, "clean": restores a face, 512x512 (Wang et al., CVPR 2021). The network is spandrel's.

Compared with the original on the same weights (network specification, page "gfpgan"): same keys, difference 0. Its
modulated convolutions are replaced by ours, which are the same function and keep the keys: theirs make one group of
every sample, at which a GPU runs far below its rate.
"""

from __future__ import annotations

from spandrel.architectures.GFPGAN import GFPGAN as SpandrelGFPGAN
from torch import Tensor, nn

from retalking_core.networks.modulation import ModulatedConv2d


class GFPGAN(SpandrelGFPGAN):
    """image `[B, 3, 512, 512]`, RGB in -1..1, to the restored face, alike but unbounded.

    `randomize_noise` draws new noise for every picture, as the original does; without it the noise stored in the
    checkpoint is used, which keeps the grain of a video still. spandrel's *descriptor* is not used, as it clamps to
    0..1 and so cuts off the dark half.
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
        for parent in self.stylegan_decoder.modules():
            if hasattr(parent, "modulated_conv"):
                parent.modulated_conv = _shared_across_batch(parent.modulated_conv)

    def forward(self, image: Tensor, randomize_noise: bool = False) -> Tensor:
        return super().forward(image, return_rgb=False, randomize_noise=randomize_noise)[0]


def _shared_across_batch(theirs: nn.Module) -> ModulatedConv2d:
    """Ours for spandrel's, before weights are loaded."""
    up = theirs.sample_mode == "upsample"
    return ModulatedConv2d(theirs.in_channels, theirs.out_channels, theirs.kernel_size, theirs.demodulate, up)
