"""Matching and losses: what a detector's predictions are taught."""

from aligndetr.losses.classification import ia_bce

__all__ = ["ia_bce"]
