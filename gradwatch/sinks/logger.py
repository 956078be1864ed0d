"""Any logger of Lightning, of which only `log_metrics` is known: W&B, MLflow, CSV, Comet, ..."""

from __future__ import annotations

import math
from typing import Any

from gradwatch.core.report import Report


class LoggerScalars:
    """Gives a logger a few numbers at each report: to some of them each number is a request."""

    def __init__(self, logger: Any) -> None:
        """`logger` has a method `log_metrics(metrics, step=...)`."""
        self._logger = logger

    def write(self, report: Report, /) -> None:
        """Log what is known of the latest step; what is not finite is left out."""
        numbers = {"gradwatch/findings": float(len(report.findings))}
        if report.pulses:
            numbers["gradwatch/gradient_norm"] = report.pulses[-1].norm
            numbers["gradwatch/clip_ratio"] = report.pulses[-1].clip_ratio
        if report.ledger.entries:
            numbers["gradwatch/bits_to_first_layer"] = report.ledger.total
        finite = {name: number for name, number in numbers.items() if math.isfinite(number)}
        self._logger.log_metrics(finite, step=max(report.step, 0))

    def close(self) -> None:
        """Do nothing: the logger is its owner's."""
