"""Checking a model without its training loop: the batch, a stand-in, a baseline, a command."""
