"""Seeing misalignment: its measures, and the report that shows them."""
