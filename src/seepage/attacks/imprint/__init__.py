"""Malicious servers that read examples from a few rows of their own (Fowl et al. 2021)."""
