"""Export of finished runs as an artifact with its model card."""
