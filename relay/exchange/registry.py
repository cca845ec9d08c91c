"""The streams that are under way, for the admin listener, the drain and the metrics. One dict entry per stream."""

from __future__ import annotations

from collections.abc import Iterator

from relay.exchange.transfer import Transfer
from relay.observing.ending import Cause


class Registry:
    """Live transfers by exchange id."""

    __slots__ = ("_live",)

    def __init__(self) -> None:
        self._live: dict[str, Transfer] = {}

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Transfer]:
        return iter(list(self._live.values()))

    def add(self, transfer: Transfer) -> None:
        self._live[transfer.record.id] = transfer

    def discard(self, transfer: Transfer) -> None:
        self._live.pop(transfer.record.id, None)

    def stop(self, exchange_id: str) -> bool:
        """End one stream with its terminal event; False if it is not there."""
        transfer = self._live.get(exchange_id)
        if transfer is None:
            return False
        transfer.ask(Cause.STOPPED)
        return True
