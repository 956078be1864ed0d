"""The waist: what torch measured, as plain data that detectors, remedies and sinks read.

Nothing here imports torch, so that `gradwatch report` starts at once, a detector can be
tested in microseconds, and whoever writes one cannot touch the model by accident.
"""
