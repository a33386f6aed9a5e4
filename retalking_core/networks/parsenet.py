"""ParseNet: labels the parts of a face, 19 classes, 512x512. The network is facexlib's.

Compared with the original on the same weights (network specification, page "parsenet"): same keys, difference 0.
"""

from __future__ import annotations

from facexlib.parsing.parsenet import ParseNet as FacexlibParseNet


class ParseNet(FacexlibParseNet):
    """image `[B, 3, 512, 512]`, RGB in -1..1, to (logits `[B, 19, 512, 512]`, image `[B, 3, 512, 512]`).

    Classes: 0 background, 1 skin, 2 nose, 3 glasses, 4 and 5 eyes, 6 and 7 brows, 8 and 9 ears, 10 mouth, 11 upper lip,
    12 lower lip, 13 hair, 14 hat, 15 earring, 16 necklace, 17 neck, 18 cloth.
    """

    def __init__(self) -> None:
        super().__init__(in_size=512, out_size=512, parsing_ch=19)
