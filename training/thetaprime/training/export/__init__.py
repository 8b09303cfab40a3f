"""Exporting a finished run as an artifact with its model card."""
