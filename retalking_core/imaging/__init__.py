"""Picture arithmetic without faces or networks: resampling, warps, filters, pyramids. NumPy/OpenCV and batched torch."""
