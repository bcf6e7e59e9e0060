"""The log of one layer of a workflow: `[welcome:paginate] Got batch`."""

import logging

from batchflow.logs import logger, said


class LayerLog:
    """Writes lines that begin with workflow and layer.

    `verbose` says whether lines of pages, chunks and items are wanted. It is asked once per page or batch, by
    `refresh`: asking for every item costs more than the item.
    """

    __slots__ = ("_error", "_prefix", "verbose")

    def __init__(self, workflow: str, layer: str) -> None:
        self._prefix = f"[{workflow}:{layer}] "
        self._error = f"[{workflow}:{layer}:error] "
        self.verbose = False

    def refresh(self) -> None:
        """Ask whether DEBUG lines are written."""
        self.verbose = logger().is_enabled_for(logging.DEBUG)

    def info(self, text: str, **values: object) -> None:
        """A line per batch."""
        logger().info(self._prefix + text, **values)

    def debug(self, text: str, **values: object) -> None:
        """A line per page, chunk or item, where they are wanted. For items, callers look at `verbose` first."""
        if self.verbose:
            logger().debug(self._prefix + text, **values)

    def warning(self, text: str, **values: object) -> None:
        """What may be wrong, and is none of an item's."""
        logger().warning(self._prefix + text, **values)

    def error(self, error: BaseException | str, **values: object) -> None:
        """What went wrong."""
        logger().error(self._error + _text(error), **values)


def _text(error: BaseException | str) -> str:
    return error if isinstance(error, str) else said(error) or type(error).__name__
