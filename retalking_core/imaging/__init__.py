"""Picture arithmetic without faces or networks: resampling, warps, filters, pyramids, masks; single and batched."""
