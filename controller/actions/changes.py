"""Who is told that something changed."""

import asyncio
from collections.abc import Iterable

from overlay.ordered import OrderedSet

TOPICS = frozenset({"authority", "map", "policy", "audit", "sessions", "presence", "certificates"})


class Subscription:
    """What changed since the last look, merged: never lost, never more than `TOPICS`."""

    def __init__(self, changes: "Changes") -> None:
        self._changes = changes
        self._topics: set[str] = set()
        self._news = asyncio.Event()
        self._open = True

    async def wait(self) -> frozenset[str]:
        """The topics that changed since the last call; waits for one. Empty after `close`."""
        await self._news.wait()
        topics = frozenset(self._topics)
        self._topics.clear()
        if self._open:
            self._news.clear()
        return topics

    def close(self) -> None:
        """Stop; a waiter gets an empty set."""
        self._open = False
        self._topics.clear()
        self._news.set()
        self._changes.forget(self)

    def tell(self, topics: Iterable[str]) -> None:
        """Add news."""
        if self._open:
            self._topics.update(topics)
            self._news.set()


class Changes:
    """All subscriptions."""

    def __init__(self) -> None:
        self._subscriptions = OrderedSet[Subscription]()

    def subscribe(self) -> Subscription:
        """Topics: "authority" (publish now), "map", "policy" (assignments and grants of all nodes may differ),
        "audit" (records), "sessions", "presence", "certificates" (a node got one)."""
        subscription = Subscription(self)
        self._subscriptions.add(subscription)
        return subscription

    def forget(self, subscription: Subscription) -> None:
        """End of a subscription."""
        self._subscriptions.discard(subscription)

    def publish(self, topics: Iterable[str]) -> None:
        """Tell everybody."""
        news = frozenset(topics)
        for subscription in list(self._subscriptions) if news else ():
            subscription.tell(news)
