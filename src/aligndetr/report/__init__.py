"""The pages and figures of an analysis: one HTML file, and PNGs for papers."""
