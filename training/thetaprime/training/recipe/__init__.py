"""Recipes: settings of a run that are measured on its tasks instead of given, and a watch over the run."""
