"""Layers that know tensors only: no records of the model, no configuration."""
