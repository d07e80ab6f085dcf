"""Operators that are worth their own kernel."""

from aligndetr.kernels.deformable import deformable_attention, portable

__all__ = ["deformable_attention", "portable"]
