"""TensorBoard's door to the tab. TensorBoard imports this file at every start, of everybody who has
gradwatch installed, and ends if that raises: nothing of ours is imported before it is guarded."""

from __future__ import annotations

import logging
from typing import Any

from tensorboard.plugins import base_plugin  # type: ignore[import-untyped]  # no stubs

log = logging.getLogger("gradwatch")


class Loader(base_plugin.TBLoader):  # type: ignore[misc]  # untyped
    """Loads the tab, or leaves TensorBoard without it."""

    def load(self, context: Any) -> Any:
        """Return the plugin; None, and a line in the log, when it cannot be made."""
        try:
            from gradwatch.viewer.plugin import Plugin

            return Plugin(context)
        except Exception as error:
            log.warning("The gradwatch tab could not be loaded: %r", error)
            return None
