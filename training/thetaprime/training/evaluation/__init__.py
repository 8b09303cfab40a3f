"""Evaluation of meta-policies: returns, scores, comparisons, figures."""
