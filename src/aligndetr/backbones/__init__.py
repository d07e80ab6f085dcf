"""Backbones: timm models as feature extractors, and where their weights come from."""
