"""Pure: medians and ranges over rounds, fairness, and whether two sets of rounds differ."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple, Self

MOST_SPLITS = 200_000
"""Up to so many ways to divide the rounds the test is exact; beyond that it uses the normal approximation."""


class Spread(NamedTuple):
    """Median, least and greatest of some rounds."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Of at least one value."""
        known = list(values)
        return cls(statistics.median(known), min(known), max(known), len(known))


def ratios(over: Mapping[int, float], under: Mapping[int, float]) -> list[float]:
    """Value by value of the rounds that both have; a division by nothing is left out."""
    return [over[number] / under[number] for number in over if under.get(number)]


def jain(shares: Sequence[float]) -> float:
    """Jain's fairness index: 1 when all got the same, 1/n when one got everything; 0 when nobody got anything."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 0.0


def rank_sum(values: Sequence[float], others: Sequence[float]) -> float:
    """How many pairs have the greater value on the first side; a tie is half a pair (Mann-Whitney U)."""
    return sum(
        1.0 if one > other else 0.5 if one == other else 0.0 for one in values for other in others
    )


def least_p(first: int, second: int) -> float:
    """The smallest two-sided p that so many rounds can give: above 0.05 the test cannot find anything."""
    return min(1.0, 2 / math.comb(first + second, first))


def differ(values: Sequence[float], others: Sequence[float]) -> float:
    """Two-sided p of the Mann-Whitney test: how often chance alone divides the same values so unevenly or more.

    Exact, by counting all divisions, so ties and few rounds are no problem; approximate for many rounds.
    """
    if not values or not others:
        return 1.0
    middle = len(values) * len(others) / 2
    distance = abs(rank_sum(values, others) - middle)
    pool = [*values, *others]
    if math.comb(len(pool), len(values)) > MOST_SPLITS:
        deviation = math.sqrt(len(values) * len(others) * (len(pool) + 1) / 12)
        return math.erfc(distance / deviation / math.sqrt(2))
    ranks = midranks(pool)
    least = len(values) * (len(values) + 1) / 2
    as_uneven = total = 0
    for chosen in combinations(ranks, len(values)):
        total += 1
        as_uneven += abs(sum(chosen) - least - middle) >= distance - 1e-9
    return as_uneven / total


def midranks(values: Sequence[float]) -> list[float]:
    """The rank of each value from 1 on; equal ones share the mean of their ranks."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        stop = start
        while stop < len(order) and values[order[stop]] == values[order[start]]:
            stop += 1
        for place in order[start:stop]:
            ranks[place] = (start + 1 + stop) / 2
        start = stop
    return ranks
