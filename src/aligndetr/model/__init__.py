"""The detector, a file a slot: backbone, neck, encoder, queries, denoising, decoder, heads."""
