"""Policies that were trained elsewhere, as artifacts: read without executing a pickle, adapted by fine-tuning."""
