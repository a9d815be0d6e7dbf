"""Texts of events: cut to what an event may hold, so that a long one costs no event."""

from overlay import limits
from overlay.audit.event import MAX_DETAIL, MAX_TEXT, Event, EventName, Outcome, clipped
from overlay.wire.codec import decode, encode


def test_each_text_is_cut_to_its_bound():
    long = "x" * (4 * MAX_DETAIL)
    kept = clipped({"who": long, "reason": long, "count": 7, "detail": long})
    assert kept["who"] == long[:MAX_TEXT]
    assert kept["reason"] == long[: limits.MAX_REASON]
    assert (kept["count"], kept["detail"]) == (7, '{"omitted":"too long"}')
    whole = clipped({"detail": long[:MAX_DETAIL]})
    assert whole["detail"] == long[:MAX_DETAIL]
    fields = {"node": "edge-a", "number": 1, "time": 1}
    event = Event(
        **fields, event=EventName.LINK_UP, outcome=Outcome.DONE, **(kept | whole)  # type: ignore[arg-type]
    )  # fmt: skip
    assert decode(Event, encode(event)) == event
