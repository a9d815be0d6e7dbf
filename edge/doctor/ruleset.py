"""The host's rules of nftables, as `nft -j list ruleset` prints them, and what they do with a packet. Pure.

Of a packet is known what a `Packet` says and nothing else, so a rule may fit it for certain, not at all, or only some
such packets (`Fit.SOME`: those of one sender, say). What no rule of arithmetic tells (a limit, a set that fills itself,
an extension of iptables) is `Fit.UNKNOWN`, and never taken for the one or the other. Layout: libnftables-json(5).
"""

import json
from typing import Any, NamedTuple

from edge.doctor.rule_match import Fit, Matcher, Packet
from edge.doctor.rule_words import in_words

DEEPEST = 16
"""Chains that jump into one another; the kernel allows as many."""
_SILENT = frozenset(
    {"counter", "log", "comment", "notrack", "flow", "quota used", "ct helper", "last"}
)
"""Statements that decide nothing."""
_ENDS = frozenset(
    {
        "accept",
        "drop",
        "reject",
        "queue",
        "masquerade",
        "snat",
        "dnat",
        "redirect",
        "return",
        "jump",
        "goto",
    }
)


class Rule(NamedTuple):
    """One rule, where it stands, and how it can be found again."""

    chain: "Chain"
    handle: int
    expressions: tuple[Any, ...]

    def __str__(self) -> str:
        return in_words(self.expressions)


class Chain(NamedTuple):
    """Of a table. `hook` empty: it is only jumped to."""

    family: str
    table: str
    name: str
    kind: str = ""
    hook: str = ""
    priority: int = 0
    policy: str = "accept"

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.name}"


class Met(NamedTuple):
    """What may become of a packet: a verdict, by which rule (None: the chain's policy), and how certain that is."""

    verdict: str
    rule: Rule | None
    fit: Fit


class Ruleset:
    """All tables.

    Raises:
        ValueError: it is not what nft prints.
    """

    def __init__(self, text: str) -> None:
        self.chains: list[Chain] = []
        self._rules: dict[tuple[str, str, str], list[Rule]] = {}
        self._sets: dict[tuple[str, str, str], dict[str, Any]] = {}
        known: dict[tuple[str, str, str], Chain] = {}
        try:
            objects = json.loads(text)["nftables"] if text.strip() else []
            for one in objects:
                ((kind, body),) = one.items()
                if kind == "chain":
                    chain = Chain(
                        body["family"], body["table"], body["name"], body.get("type", ""), body.get("hook", ""),
                        int(body.get("prio", 0)), body.get("policy", "accept"),
                    )  # fmt: skip
                    known[chain[:3]] = chain
                    self.chains.append(chain)
                elif kind == "rule":
                    place = body["family"], body["table"], body["chain"]
                    rule = Rule(known[place], body["handle"], tuple(body.get("expr", ())))
                    self._rules.setdefault(place, []).append(rule)
                elif kind in ("set", "map"):
                    self._sets[body["family"], body["table"], body["name"]] = body
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a ruleset: {error!r}") from None

    def walk(self, chain: Chain, packet: Packet) -> list[Met]:
        """What may become of a packet in a chain with a hook, in order; the last one is certain to end its way."""
        found: list[Met] = []
        if _Walk(self, packet, found).through(chain, Fit.YES, 0):
            return found
        return [*found, Met(chain.policy, None, Fit.YES)]

    def rules(self, chain: Chain) -> list[Rule]:
        """Of a chain, in order."""
        return self._rules.get(chain[:3], [])

    def chain(self, near: Chain, name: str) -> Chain | None:
        """Of the same table."""
        return next((one for one in self.chains if one[:3] == (*near[:2], name)), None)

    def elements(self, near: Chain, name: str) -> list[Any] | None:
        """Of a named set or map of the same table; None where it is not known, or fills itself."""
        found = self._sets.get((*near[:2], name.removeprefix("@")))
        if found is None or {"timeout", "dynamic"} & set(found.get("flags", ())):
            return None
        return list(found.get("elem", ()))


class _Walk:
    """One packet on its way through chains."""

    def __init__(self, ruleset: Ruleset, packet: Packet, found: list[Met]) -> None:
        self._ruleset = ruleset
        self._packet = packet
        self._found = found

    def through(self, chain: Chain, under: Fit, depth: int) -> bool:
        """Whether its way ends here for certain; `under`: how certain it is that it comes here."""
        if depth > DEEPEST:
            return False
        for rule in self._ruleset.rules(chain):
            fit, ends = self._rule(rule, under, depth)
            if ends is not None:
                return ends
            under = max(under, fit)
        return False

    def _rule(self, rule: Rule, under: Fit, depth: int) -> tuple[Fit, bool | None]:
        """How certain what follows is reached, and whether the chain is over: True, the packet's way ends; False, it
        goes on where the chain was called; None: with the next rule.
        """
        fit = under
        for one in rule.expressions:
            ((kind, body),) = one.items() if isinstance(one, dict) else (("", None),)
            if kind == "vmap":
                return self._verdicts(rule, body, fit, depth)
            if kind in _ENDS:
                return self._end(rule, kind, body, fit, depth)
            if kind == "xt" and isinstance(body, dict) and body.get("type") == "target":
                return self._end(rule, str(body.get("name", "")).lower(), body, fit, depth)
            if kind in _SILENT or kind == "mangle":
                continue
            fit = max(fit, self._match(rule, body) if kind == "match" else Fit.UNKNOWN)
            if fit is Fit.NO:
                return Fit.YES, None
        if any(isinstance(one, dict) and "xt" in one for one in rule.expressions):
            self._found.append(Met("an extension", rule, Fit.UNKNOWN))  # it may be a verdict
        return Fit.YES, None

    def _end(
        self, rule: Rule, verdict: str, body: Any, fit: Fit, depth: int
    ) -> tuple[Fit, bool | None]:
        """Of the verdict of a rule that fits."""
        sure = fit is Fit.YES
        if verdict == "return":
            return fit, False if sure else None
        if verdict in ("jump", "goto"):
            target = self._ruleset.chain(rule.chain, body["target"])
            over = target is not None and self.through(target, fit, depth + 1)
            if over and sure:
                return fit, True
            if verdict == "goto":
                return fit, False if sure else None
            return Fit.YES, None
        if verdict in ("log", "nflog", "mark", "connmark", "ct", "tcpmss", "checksum", "classify"):
            return Fit.YES, None
        self._found.append(Met(verdict, rule, fit))
        return Fit.YES, True if sure else None

    def _verdicts(self, rule: Rule, body: Any, fit: Fit, depth: int) -> tuple[Fit, bool | None]:
        """Of a map of verdicts."""
        pairs = body["data"]
        if isinstance(pairs, str):
            pairs = self._ruleset.elements(rule.chain, pairs)
        else:
            pairs = pairs.get("set")
        if pairs is None:
            self._found.append(Met("map", rule, Fit.UNKNOWN))
            return Fit.UNKNOWN, None
        after, matcher = Fit.YES, self._matcher(rule)
        for value, verdict in pairs:
            this = max(fit, matcher.fit(body["key"], "==", value))
            if this is Fit.NO:
                continue
            ((kind, target),) = verdict.items()
            left, ends = self._end(rule, kind, target, this, depth)
            if ends is not None:
                return left, ends
            after = max(after, left)
            if this is Fit.YES:
                break
        return after, None

    def _match(self, rule: Rule, body: Any) -> Fit:
        return self._matcher(rule).fit(body["left"], body["op"], body["right"])

    def _matcher(self, rule: Rule) -> Matcher:
        return Matcher(self._packet, lambda name: self._ruleset.elements(rule.chain, name))
