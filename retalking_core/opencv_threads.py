"""How OpenCV shares the machine with the rest of a render."""

from __future__ import annotations

import cv2


def keep_opencv_single() -> None:
    """Every call in the thread that makes it, for the whole process.

    Decoding, drawing and encoding run side by side in threads of their own, on small pictures; OpenCV's workers only
    wait for each other there. Drawing a 700x700 frame on two cores: 11.0 ms of CPU time with them, 8.2 ms without.
    """
    cv2.setNumThreads(1)
