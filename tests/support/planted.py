"""Bugs that more than one kind of test must find when they are planted."""

from typing import Any

import pytest

from overlay.crypto.circuit_keys import ControlOpener
from overlay.errors import TamperError
from overlay.wire.header import Header


def take_late_for_forged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A control frame whose number is used up is TAMPER, whoever sealed it; its text is `late`."""
    real = ControlOpener.peek

    def peek(self: ControlOpener, header: Header, *arguments: Any, **options: Any) -> bytes:
        if header.sequence < self.expected:
            raise TamperError("late")
        return real(self, header, *arguments, **options)

    monkeypatch.setattr(ControlOpener, "peek", peek)
