"""Detectors: one complaint a file. They read histories, know no torch and hold no state."""
