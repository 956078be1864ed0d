"""Remedies: one change a file, prescribed as code for the model at hand."""
