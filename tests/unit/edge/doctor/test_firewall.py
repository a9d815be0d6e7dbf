"""Rules that this kernel, or this version of nft, does not have: judged from what others print. And iptables-legacy."""

import json
from typing import Any

import pytest

from edge.doctor.findings import Subject
from edge.doctor.firewall import firewall, legacy, masquerade
from edge.doctor.rule_match import Fit, Matcher, Value

TUN = Subject("ferrule0", pools=("100.64.0.0/10",))
OURS = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "ferrule0"}}
ACCEPT: dict[str, Any] = {"accept": None}


def printed(
    *rules: list[dict[str, Any]], policy: str = "drop", kind: str = "filter", hook: str = "input"
) -> str:
    """As iptables-nft leaves it: `rules` are their expressions."""
    where = {"family": "ip", "table": "filter"}
    chain = {
        "chain": where | {"name": "INPUT", "type": kind, "hook": hook, "prio": 0, "policy": policy}
    }
    made = [
        {"rule": where | {"chain": "INPUT", "handle": at, "expr": some}}
        for at, some in enumerate(rules)
    ]
    return json.dumps({"nftables": [{"metainfo": {"version": "1.0.6"}}, chain, *made]})


def xt(kind: str, name: str) -> dict[str, Any]:
    return {"xt": {"type": kind, "name": name}}


@pytest.mark.parametrize(
    ("text", "ok", "words"),
    [
        (printed([OURS, ACCEPT]), True, "no rule"),
        (printed([OURS, {"counter": {"packets": 0, "bytes": 0}}, xt("target", "REJECT")], policy="accept"), False,
         "(REJECT of iptables)"),
        (printed([xt("target", "LOG")], policy="accept"), True, "no rule"),
        (printed([xt("match", "conntrack"), ACCEPT]), None, "unless accepted by rule `(conntrack of iptables) accept`"),
        (printed([xt("match", "recent"), {"drop": None}], policy="accept"), None, "for some of it"),
        (printed([{"xt": None}], policy="accept"), None, "an extension of iptables"),
        (printed([{"xt": None}, ACCEPT]), None, "unless accepted by"),
        (printed([OURS, {"queue": {"num": 3}}], policy="accept"), None, "rule `iifname ferrule0 queue`"),
        (printed([{"something new": {}}, {"drop": None}], policy="accept"), None, "for some of it"),
        (printed([{"match": {"op": "==", "left": {"osf": {}}, "right": "Linux"}}, ACCEPT]), None, "cannot be judged"),
        (printed([{"vmap": {"key": {"ct": {"key": "state"}}, "data": "@gone"}}], policy="accept"), None, "vmap @gone"),
        ("{", None, "cannot be read"),
        ('{"nftables": [{"chain": {}}]}', None, "cannot be read"),
        (printed([{"match": {}}]), None, "cannot be read"),
        ("", True, "no rule"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_never_taken_for_well(text: str, ok: bool | None, words: str):
    found = firewall(text, TUN)
    assert found.ok is ok, found
    assert words in found.text


def test_the_edges_own_tables_are_not_looked_at():
    mine = json.loads(printed())
    mine["nftables"][1]["chain"] |= {"family": "inet", "table": "ferrule0_tproxy"}
    assert firewall(json.dumps(mine), TUN).ok
    mine["nftables"][1]["chain"] |= {"table": "ferrule1_tun", "name": "guard"}
    assert firewall(json.dumps(mine), TUN).ok, "another edge's: what goes to its interface"
    mine["nftables"][1]["chain"]["name"] = "INPUT"
    assert firewall(json.dumps(mine), TUN).ok is False
    mine["nftables"][1]["chain"]["table"] = "ferrule"
    assert firewall(json.dumps(mine), TUN).ok is False


def test_who_masks_by_iptables_is_found():
    text = printed([xt("target", "MASQUERADE")], policy="accept", kind="nat", hook="postrouting")
    assert masquerade(text, TUN).ok is False
    assert masquerade("nonsense", TUN).ok is None


@pytest.mark.parametrize(
    ("tables", "listing", "ok"),
    [
        ((), "", True),
        (("nat",), None, True),
        (("filter",), "-P INPUT ACCEPT\n-P FORWARD ACCEPT\n-P OUTPUT ACCEPT\n", True),
        (("filter",), "-P INPUT DROP\n-P FORWARD ACCEPT\n-P OUTPUT ACCEPT\n", None),
        (("filter",), "-P INPUT ACCEPT\n-A INPUT -j DROP\n", None),
        (("filter",), "-P INPUT ACCEPT\n-N mine\n", None),
        (("filter", "mangle"), "-P INPUT ACCEPT\n", None),
        (("filter",), None, None),
    ],
)  # fmt: skip
def test_rules_that_nft_does_not_show_are_said_to_be_there(
    tables: tuple[str, ...], listing: str | None, ok: bool | None
):  # fmt: skip
    found = legacy(tables, listing)
    assert found.ok is ok
    if ok is None:
        assert "iptables-legacy-save" in found.text


FLAGS = {"payload": {"protocol": "tcp", "field": "flags"}}
PACKET: dict[str, Value] = {
    "nfproto": "ipv4", "l4proto": "tcp", "dport": 502, "mark": 0x46520001, "iifname": "ferrule0",
    "tcp flags": frozenset({"syn"}), "ct state": frozenset({"new"}), "ct status": frozenset({"dnat", "confirmed"}),
}  # fmt: skip
META, PORT = {"meta": {"key": "mark"}}, {"payload": {"protocol": "tcp", "field": "dport"}}


@pytest.mark.parametrize(
    ("left", "operator", "right", "fit"),
    [
        (PORT, "==", 502, Fit.YES), (PORT, "!=", 502, Fit.NO), (PORT, "<", 1024, Fit.YES), (PORT, ">=", 503, Fit.NO),
        (PORT, "==", "@ports", Fit.YES), (PORT, "==", "@none", Fit.UNKNOWN), (PORT, "!=", "@none", Fit.UNKNOWN),
        ({"payload": {"protocol": "udp", "field": "dport"}}, "!=", 53, Fit.NO),
        ({"payload": {"protocol": "ip6", "field": "nexthdr"}}, "==", "tcp", Fit.NO),
        ({"payload": {"protocol": "ip", "field": "protocol"}}, "==", 6, Fit.YES),
        ({"payload": {"protocol": "ip", "field": "saddr"}}, "==", "10.0.0.1", Fit.SOME),
        ({"payload": {"base": "th", "offset": 16, "len": 16}}, "==", 502, Fit.UNKNOWN),
        ({"&": [META, 0xFFFF0000]}, "==", 0x46520000, Fit.YES), ({"&": [META, "x"]}, "==", 0, Fit.UNKNOWN),
        ({"&": [FLAGS, ["fin", "syn", "ack"]]}, "==", "syn", Fit.YES),
        ({"&": [FLAGS, {"|": ["syn", "ack"]}]}, "==", {"|": ["syn", "ack"]}, Fit.NO),
        (FLAGS, "==", {"set": ["syn", ["syn", "ack"]]}, Fit.YES), (FLAGS, "==", {"set": [["syn", "ack"]]}, Fit.NO),
        ({"ct": {"key": "state"}}, "==", {"set": ["established", "related"]}, Fit.NO),
        ({"ct": {"key": "status"}}, "!", "dnat", Fit.NO), ({"ct": {"key": "status"}}, "in", ["snat", "dnat"], Fit.YES),
        ({"&": [{"ct": {"key": "status"}}, "dnat"]}, "==", 0, Fit.NO), ({"ct": {"key": "mark"}}, "==", 1, Fit.UNKNOWN),
        ({"meta": {"key": "iif"}}, "==", "ferrule0", Fit.YES), ({"meta": {"key": "skuid"}}, "==", 0, Fit.SOME),
        ({"concat": [{"meta": {"key": "iifname"}}, PORT]}, "==", {"set": [{"concat": ["ferr*", 502]}]}, Fit.YES),
        ({"concat": [{"meta": {"key": "iifname"}}, PORT]}, "==", {"set": [{"concat": ["eth0", 502]}]}, Fit.NO),
        ({"concat": [{"meta": {"key": "iifname"}}, PORT]}, "==", {"set": ["eth0"]}, Fit.UNKNOWN),
        ("anything", "==", 1, Fit.UNKNOWN),
    ],
)  # fmt: skip
def test_one_comparison(left: Any, operator: str, right: Any, fit: Fit):
    sets: dict[str, list[Any]] = {"@ports": [22, {"range": [500, 510]}]}
    assert Matcher(PACKET, sets.get).fit(left, operator, right) is fit
