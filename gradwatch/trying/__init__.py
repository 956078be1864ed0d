"""Trying remedies: copies of a model are treated, trained beside untreated ones, and compared."""
