"""The configuration: what it may say (schema), how it is read and written (codec), presets."""
