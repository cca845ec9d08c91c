"""The streams that are under way, for the admin listener, the drain and the metrics.

One dict entry per stream. It stays until the exchange is counted, in one step with that: between
the two a scrape would miss the stream, and a counter that falls reads as one that began again.
"""

from __future__ import annotations

from collections.abc import Iterator

from relay.exchange.transfer import Transfer
from relay.feeds.viewer import Viewer
from relay.observing.ending import Cause

UnderWay = Transfer | Viewer


class Registry:
    """Live transfers by exchange id."""

    __slots__ = ("_live",)

    def __init__(self) -> None:
        self._live: dict[str, UnderWay] = {}

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[UnderWay]:
        return iter(list(self._live.values()))

    def add(self, transfer: UnderWay) -> None:
        self._live[transfer.record.id] = transfer

    def discard(self, exchange_id: str) -> None:
        """The exchange is counted; it may have had no transfer."""
        self._live.pop(exchange_id, None)

    def stop(self, exchange_id: str) -> bool:
        """End one stream with its terminal event; False if it is not there."""
        transfer = self._live.get(exchange_id)
        if transfer is None:
            return False
        transfer.ask(Cause.STOPPED)
        return True
