"""What the doctor says of a host: each finding, both ways."""

import pytest

from edge.doctor import examining
from edge.doctor.findings import Finding, Subject
from edge.machine.capability import has_net_admin
from edge.machine.changes import HostError

NAMES = {"domain": "mill.internal", "mode": "resolved", "at": ["100.64.0.1"], "problems": []}


@pytest.mark.parametrize(
    ("good", "bad", "words"),
    [
        (
            examining.capability(Subject(runs=True, admin=True)),
            examining.capability(Subject(runs=True, admin=False)),
            "the edge runs without CAP_NET_ADMIN",
        ),
        (
            examining.device(there=True, usable=True),
            examining.device(there=False, usable=False),
            "modprobe",
        ),
        (
            examining.device(there=True, usable=True),
            examining.device(there=True, usable=False),
            "access",
        ),
        (
            examining.routes(
                [("0.0.0.0/0", "eth0"), ("192.168.1.0/24", "eth0"), ("fd00::/64", "eth0")]
            ),
            examining.routes([("100.100.100.100/32", "tailscale0")]),
            "choose another pool",
        ),
        (
            examining.default_routes(["eth0"]),
            examining.default_routes(["eth0", "wwan0"]),
            "eth0 and wwan0",
        ),
        (
            examining.forwarding("1", "0"),
            examining.forwarding("0", "0", Subject(devices=("hmi-a",))),
            "(hmi-a) cannot use it by tun: sysctl -w net.ipv4.ip_forward=1",
        ),
        (
            examining.names(None),
            examining.names(NAMES | {"problems": ["why it does not"]}),
            "why it does",
        ),
        (examining.names(NAMES), examining.names(NAMES | {"problems": ["one", "two"]}), "one; two"),
        (examining.reverse_path("1", "0"), examining.reverse_path("1", "1"), "wg-quick"),
        (
            examining.receive_offload("generic-receive-offload: on\n", "eth0"),
            examining.receive_offload("generic-receive-offload: off\n", "eth0"),
            "ethtool -K eth0 gro on",
        ),
    ],
)
def test_each_finding_says_what_to_do(good: Finding, bad: Finding, words: str):
    assert good.ok
    assert not bad.ok
    assert words in bad.text
    assert good.check == bad.check


def test_routes_in_each_pool_of_the_edge_are_found():
    taken = [("100.100.0.0/16", "eth0"), ("fd00:7::/64", "eth0")]
    assert examining.routes(taken, ("198.18.0.0/16", "fd00:8::/64")).ok
    assert "fd00:7::/64 by eth0" in examining.routes(taken, ("198.18.0.0/16", "fd00:7::/48")).text


def test_what_stands_against_what_is_assigned_is_said():
    assert examining.intercepts(()).ok
    assert examining.intercepts(("10.0.0.1 is the address of a router",)).text.endswith("a router")


async def test_this_machine_is_examined_whatever_it_has():
    found = await examining.examine()
    assert {one.check for one in found} >= {
        "capability",
        "device",
        "routes",
        "forwarding",
        "firewall",
    }


def test_a_bridge_whose_frames_the_rules_see_breaks_tproxy():
    assert examining.bridges([], "1", "1").ok
    assert examining.bridges(["br0"], "", "").ok
    assert examining.bridges(["br0"], "0", "0").ok
    found = examining.bridges(["br1", "br0"], "1", "0")
    assert not found.ok
    assert "behind the bridge br0 or br1" in found.text
    assert "sysctl -w net.bridge.bridge-nf-call-iptables=0, or" in found.text


def test_forwarding_is_a_note_where_nobody_needs_it():
    for subject in (Subject(), Subject(modes=("tproxy",), devices=("hmi-a",))):
        found = examining.forwarding("0", "0", subject)
        assert found.ok
        assert "sysctl -w net.ipv4.ip_forward=1" in found.text


async def test_a_program_is_asked_once_for_all_that_depends_on_it(monkeypatch: pytest.MonkeyPatch):
    """A ruleset may have thousands of rules. Who may not ask is told so, and nothing is taken for well."""
    asked: list[tuple[str, ...]] = []

    async def run(*command: str) -> str:
        asked.append(command)
        raise HostError(f"{command[0]}: Operation not permitted")

    monkeypatch.setattr(examining, "run", run)
    found = {one.check: one for one in await examining.examine(Subject(modes=("tun", "tproxy")))}
    assert asked.count(("nft", "-j", "list", "ruleset")) == 1
    for check in ("firewall", "masquerade"):
        assert found[check].ok is None
        assert found[check].text == "cannot be judged: nft: Operation not permitted"


def test_the_capability_is_that_of_the_edge_that_runs():
    """Root asks, but the edge is another user's."""
    for subject in (Subject(), Subject(runs=True), Subject(admin=True)):
        found = examining.capability(subject)
        assert found.ok is None
        assert "no edge runs here" in found.text
    assert has_net_admin("Name:\tx\nCapEff:\t0000000000001000\n")
    assert not has_net_admin("CapEff:\t0000000000000fff\n")
    assert not has_net_admin("CapPrm:\t0000000000001000\n")
