"""Data room: annotation files, images and augmentations become batches."""
