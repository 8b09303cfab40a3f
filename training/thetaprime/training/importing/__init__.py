"""Policies that were trained elsewhere, as artifacts: read without running code of theirs, adapted by fine-tuning."""
