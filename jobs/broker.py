"""kombu's Redis transport, with one repair: an acknowledgement that fails gives its prefetch slot back.

Found with kombu 5.7.0 and tests/jobs/test_messages.py: Redis goes away while a late-acknowledging worker with prefetch
1 works. Its acknowledgement fails and is only logged; the message still counts as taken, so the worker asks for no
other, and since it asks for nothing it never notices that its connection is dead. It stays alive and does nothing.
With the slot free it asks again, meets the dead connection, and reconnects. The message itself comes again after the
visibility timeout, and its claim is refused.
"""

from __future__ import annotations

from collections.abc import Callable

from kombu.transport import redis, virtual

TRANSPORT = f"{__name__}:Transport"


class _QoS(redis.QoS):
    def ack(self, delivery_tag: str) -> None:
        try:
            super().ack(delivery_tag)
        except Exception:
            virtual.QoS.ack(self, delivery_tag)
            raise


class _Channel(redis.Channel):
    QoS = _QoS

    def lengths(self, queue: str) -> dict[int, int]:
        """Messages that wait in a queue, by step of priority; those that a consumer holds are not among them."""
        with self.conn_or_acquire() as client, client.pipeline() as pipe:
            for step in self.priority_steps:
                pipe.llen(self._q_for_pri(queue, step))
            return dict(zip(self.priority_steps, pipe.execute(), strict=True))

    def _brpop_start(self, timeout: float | None = None) -> None:
        super()._brpop_start(timeout)
        if _watcher is not None:
            _watcher()


_watcher: Callable[[], None] | None = None


def watch_polls(watcher: Callable[[], None]) -> None:
    """Have `watcher` called each time this process asks for messages: about once a second while it has room for one."""
    global _watcher  # noqa: PLW0603  # kombu makes the channels itself: there is nobody to hand it to
    _watcher = watcher


class Transport(redis.Transport):
    """For `broker_transport`: used instead of the one that the scheme of the address names."""

    Channel = _Channel
