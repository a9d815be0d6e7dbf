"""A breadth-first search over all that can happen: the shortest way to whatever must not be."""

from collections import deque
from dataclasses import dataclass, field

from tests.model.scenario import Broken, Scenario, small_numbers
from tests.model.stand_ins import freeze, thaw
from tests.model.two_ends import State


@dataclass
class Found:
    """What a search saw. `wrong` is empty when all holds, else says what does not; `steps` is the shortest way there.

    `whole`: no state was left out for want of room.
    """

    states: int = 0
    depth: int = 0
    whole: bool = True
    wrong: str = ""
    steps: list[str] = field(default_factory=list)
    scenario: Scenario = field(default_factory=Scenario)

    def __str__(self) -> str:
        if not self.wrong:
            return (
                f"{self.states} states, {self.depth} steps deep{'' if self.whole else ', not all'}"
            )
        return "\n".join([f"{self.wrong}, after {len(self.steps)} steps:", *self.told()])

    def told(self) -> list[str]:
        """The steps, each with the state that it leads to."""
        lines = []
        with small_numbers(self.scenario):
            state = State(self.scenario)
            lines.append(f"{'at first':34}{state}")
            for number, step in enumerate(self.steps, 1):
                try:
                    state.apply(step, dict(state.actions())[step])
                    after = str(state)
                except Broken as broken:
                    after = f"✗ {broken}"
                lines.append(f"{number:2}. {step:30}{after}")
        return lines


def search(scenario: Scenario, most: int = 100_000) -> Found:
    """Visit every state that the scenario allows, at most so many.

    Wrong is what breaks an invariant, and a state from which no way without further faults leads to the end of the
    circuit at both ends.
    """
    found = Found(scenario=scenario)
    with small_numbers(scenario):
        state = State(scenario)
        numbers = {
            hash(state.facts()): 0
        }  # 64 bits: two states with one hash would be a rare piece of luck
        came: list[tuple[int, str]] = [(0, "")]
        depths = [0]
        back: list[list[int]] = [[]]
        good: list[int] = []
        waiting = deque([(0, freeze(state))])
        while waiting:
            here, frozen = waiting.popleft()
            state = thaw(frozen)
            if state.complete():
                good.append(here)
            for action, fault in state.actions():
                after = thaw(frozen)
                try:
                    after.apply(action, fault)
                except Broken as broken:
                    return _wrong(found, came, here, action, str(broken))
                key = hash(after.facts())
                number = numbers.get(key)
                if number is None:
                    if len(came) >= most:
                        found.whole = False
                        continue
                    number = numbers[key] = len(came)
                    came.append((here, action))
                    depths.append(depths[here] + 1)
                    back.append([])
                    waiting.append((number, freeze(after)))
                if not fault:
                    back[number].append(here)
        found.states, found.depth = len(came), depths[-1]
        stuck = _stuck(back, good) if found.whole else None
        if stuck is not None:
            here, action = came[stuck]
            return _wrong(found, came, here, action, "no way leads to the end any more")
    return found


def _stuck(back: list[list[int]], good: list[int]) -> int | None:
    """The first state from which none of the good ones is reached."""
    reach = bytearray(len(back))
    while good:
        state = good.pop()
        if not reach[state]:
            reach[state] = 1
            good += back[state]
    first = reach.find(0)
    return None if first < 0 else first


def _wrong(found: Found, came: list[tuple[int, str]], here: int, action: str, wrong: str) -> Found:
    found.states, found.wrong = len(came), wrong
    steps = [action]
    while here:
        here, before = came[here]
        steps.append(before)
    found.steps = [step for step in reversed(steps) if step]
    found.depth = len(found.steps)
    return found
