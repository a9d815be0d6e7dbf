"""Which event loop a circuit belongs to, and how it is handed to another (ADR 5).

At each moment one loop owns a circuit with all that belongs to it: core, hop, timer, the application's connection. A
program, which lives on the home loop, reaches a circuit by `at_owner` only; the owner reaches what is kept at home by
`at_home`. Who owns it changes on the receiving loop, after the giving one has let go of everything.
"""

from collections.abc import Callable

from overlay.aio.circuit_roles import Companion, StreamOwner

Call = Callable[..., object]


class OwnedCircuit:
    """Owned by `owner`, which stands for an event loop."""

    def __init__(self, owner: StreamOwner) -> None:
        self._owner = owner
        self._settled = True
        """False: it is on its way to `_owner`."""
        self.companion: Companion | None = None
        """Goes along to another event loop; a circuit without stays at home."""

    @property
    def owner(self) -> StreamOwner:
        """Whom it belongs to, or is on its way to."""
        return self._owner

    @property
    def at_home_now(self) -> bool:
        """Home loop: it may be touched here."""
        return self._settled and self._owner is self._owner.home

    # --- from the home loop -------------------------------------------------------------------------

    def at_owner(self, call: Call, *arguments: object) -> None:
        """Home loop: call it on the loop that owns this circuit; at once where that is home."""
        if self.at_home_now:
            call(*arguments)
        else:
            self._owner.post(self._pass_on, self._owner, call, arguments)

    def _pass_on(self, here: StreamOwner, call: Call, arguments: tuple[object, ...]) -> None:
        if self._settled and self._owner is here:
            call(*arguments)
        else:  # it went on meanwhile: the call follows it
            self._owner.post(self._pass_on, self._owner, call, arguments)

    # --- from the loop that owns it -----------------------------------------------------------------

    def at_home(self, call: Call, *arguments: object) -> None:
        """Owning loop: call it on the home loop; at once where that is this one."""
        home = self._owner.home
        if home is self._owner:
            call(*arguments)
        else:
            home.post(call, *arguments)

    def give(self, to: StreamOwner, then: Call, *arguments: object) -> None:
        """Owning loop, in the middle of anything: `hand_over` in a turn of its own."""
        self._owner.post(self._give, self._owner, to, then, arguments)

    def _give(
        self, here: StreamOwner, to: StreamOwner, then: Call, arguments: tuple[object, ...]
    ) -> None:
        if not self._settled or self._owner is not here:
            self._owner.post(self._give, self._owner, to, then, arguments)
        elif to is here:
            then(*arguments)
        else:
            self.hand_over(to, then, *arguments)

    def hand_over(self, to: StreamOwner, then: Call, *arguments: object) -> None:
        """Owning loop, with nothing of this circuit on the stack: it belongs to another loop from now on, where
        `then` is called as soon as it has arrived.
        """
        along = self.companion
        self._release()
        if along is not None:
            along.release()
        self._settled = False
        self._owner = to
        to.post(self._arrive, along, then, arguments)

    def _arrive(self, along: Companion | None, then: Call, arguments: tuple[object, ...]) -> None:
        self._settled = True
        if along is not None:
            along.settle()
        self._settle()
        then(*arguments)

    def _release(self) -> None:
        """Let go of this event loop."""
        raise NotImplementedError

    def _settle(self) -> None:
        """Go on, on the running one."""
        raise NotImplementedError
