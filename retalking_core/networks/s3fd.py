"""S3FD: boxes of faces (Zhang et al., ICCV 2017). The network is face-alignment's.

Compared with the original on the same weights (network specification, page "s3fd"): same keys, difference 0.
"""

from __future__ import annotations

from face_alignment.detection.sfd.net_s3fd import s3fd


class S3FD(s3fd):
    """image `[B, 3, H, W]` in 0..255 minus (104, 117, 123) to twelve tensors: for each of six levels (strides 4..128)
    two class scores and four box offsets a position.

    Trained on BGR; the original feeds RGB with the BGR means.
    """
