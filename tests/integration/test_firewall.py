"""What the doctor says of real rules of nftables, loaded in a namespace and read back from the kernel."""

import subprocess
from collections.abc import Callable, Iterator

import pytest

from edge.doctor.findings import Finding, Subject
from edge.doctor.firewall import firewall, masquerade
from edge.intercept.steering import Marks
from tests.support.namespace import command_in, namespace
from tests.support.needs import need_program

Judged = Callable[..., Finding]
TUN = Subject("ferrule0", modes=("tun",))
BEHIND = TUN._replace(devices=("hmi-a",), senders=("192.168.77.20",), catches=("192.168.1.5/32",))
TPROXY = BEHIND._replace(modes=("tproxy",))
REDIRECT = BEHIND._replace(modes=("redirect",))
ASKED = {"domain": "mill.internal", "mode": "resolved", "at": ["100.64.0.1"], "problems": []}
NAMES = TUN._replace(names=ASKED)
LINKS = TUN._replace(modes=(), dials=(("10.9.0.2", 7440),))
SUBJECTS = {
    "tun": TUN,
    "behind": BEHIND,
    "tproxy": TPROXY,
    "redirect": REDIRECT,
    "names": NAMES,
    "links": LINKS,
}
MARK = hex(Marks.of("ferrule0").number)


def chain(hook: str, policy: str, *rules: str, name: str = "") -> str:
    lines = "\n".join(rules)
    return f"chain {name or hook} {{\ntype filter hook {hook} priority 0; policy {policy};\n{lines}\n}}\n"


@pytest.fixture(scope="module")
def judged() -> Iterator[Judged]:
    """Loads chains of a table `inet guard`, and says what is found."""
    nft = need_program("nft", "nftables")

    with namespace("wall") as name:

        def run(*words: str, text: str = "") -> str:
            done = subprocess.run(
                command_in(name, nft, *words), input=text, capture_output=True, text=True, check=False
            )  # fmt: skip
            assert not done.returncode, done.stderr
            return done.stdout

        def judge(
            chains: str,
            subject: Subject,
            *,
            family: str = "inet",
            by: Callable[..., Finding] = firewall,
        ) -> Finding:
            run("-f", "-", text=f"flush ruleset\ntable {family} guard {{\n{chains}\n}}\n")
            return by(run("-j", "list", "ruleset"), subject)

        yield judge


CLOSED = {
    "policy of input": ("tun", chain("input", "drop"), "inet guard input (policy drop) drops", 'input iifname "ferrule0"'),
    "policy of output": ("tun", chain("output", "drop"), "what programs of this host send", 'output oifname "ferrule0"'),
    "policy of forward": ("behind", chain("forward", "drop"), "what devices send", 'forward oifname "ferrule0"'),
    "last rule rejects": (
        "tun", chain("input", "accept", "tcp dport 22 accept", "reject with icmpx admin-prohibited"),
        "rule `reject`, handle", 'insert rule inet guard input iifname "ferrule0" accept',
    ),
    "last rule drops all of output": ("tun", chain("output", "accept", "counter drop"), "rule `drop`", "output oifname"),
    "only a comment says so": (
        "tun", chain("input", "drop", 'ct state established accept comment "iifname ferrule0 accept"'),
        "connections that ferrule0 brings", "input iifname",
    ),
    "words of several rules": (
        "tun", chain("input", "drop", 'iifname "eth0" accept', 'oifname "ferrule0" drop', "ct state established accept")
        .replace('oifname "ferrule0"', 'iifname "ferrule0"'), "drop", "input iifname",
    ),
    "another interface": ("tun", chain("input", "drop", 'iifname "ferrule1" accept'), "policy drop", "input iifname"),
    "not this interface": ("tun", chain("input", "drop", 'iifname != "ferrule0" accept'), "policy drop", "input iifname"),
    "only some ports": ("tun", chain("input", "drop", "tcp dport { 22, 80-90 } accept"), "policy drop", "input iifname"),
    "dropped before it is accepted": (
        "tun", chain("input", "accept", "ct state new drop", 'iifname "ferrule0" accept'), "rule `ct state new drop`", "input"
    ),
    "jump and drop": (
        "tun", "chain deep {\n ct state established accept\n}\nchain far {\n jump deep\n drop\n}\n"
        + chain("input", "accept", "jump far", 'iifname "ferrule0" accept'), "in chain far", "guard input iifname",
    ),
    "goto does not come back": (
        "tun", "chain far {\n ct state established accept\n}\n" + chain("input", "drop", "goto far", 'iifname "ferrule0" accept'),
        "policy drop", "input",
    ),
    "a map of verdicts": ("tun", chain("input", "accept", "ct state vmap { new : drop, established : accept }"), "vmap", "input"),
    "a named set": (
        "behind", "set lan { type ipv4_addr; flags interval; elements = { 192.168.0.0/16 } }\n"
        + chain("forward", "accept", "ip saddr @lan drop"), "rule `ip saddr @lan drop`", "forward oifname",
    ),
    "another chain of the hook": (
        "tun", chain("input", "accept", 'iifname "ferrule0" accept') + chain("input", "drop", name="second"),
        "inet guard second (policy drop)", "guard second iifname",
    ),
    "before the hook": ("tun", chain("prerouting", "drop", "ct state established accept"), "guard prerouting", "insert rule"),
    "answers are dropped": ("tun", chain("output", "accept", "ct state established drop"), "answers to connections", "output"),
    "tproxy": ("tproxy", chain("input", "drop", "ct state established accept"), "what devices send", f"meta mark {MARK} accept"),
    "tproxy, another mark": ("tproxy", chain("input", "drop", "meta mark 0x1 accept"), "policy drop", f"meta mark {MARK} accept"),
    "tproxy, answers": ("tproxy", chain("output", "drop", f"meta mark {MARK} accept"), "answers to devices", "ct state established"),
    "redirect": ("redirect", chain("input", "drop", "iif lo accept"), "what devices send", "ct status dnat accept"),
    "redirect, forbidden": ("redirect", chain("input", "accept", "ct status dnat drop"), "rule `ct status dnat drop`", "insert"),
    "names": (
        "names", chain("input", "drop", 'iifname "ferrule0" accept', "tcp dport 53 accept", "ct state established accept"),
        "names that programs of this host ask for", "ip daddr 100.64.0.1 meta l4proto { tcp, udp } th dport 53 accept",
    ),
    "links, out": ("links", chain("output", "drop"), "the edge's own link to 10.9.0.2 port 7440", "ip daddr 10.9.0.2 tcp dport 7440"),
    "links, answers": ("links", chain("input", "drop"), "answers to the edge's own link", "ct state established,related accept"),
}  # fmt: skip


@pytest.mark.parametrize("name", CLOSED)
def test_what_drops_is_named_and_what_to_do_about_it(judged: Judged, name: str):
    kind, chains, words, command = CLOSED[name]
    found = judged(chains, SUBJECTS[kind])
    assert found.ok is False, found
    assert words in found.text
    assert command in found.text
    assert "`nft insert rule inet guard " in found.text


OPEN = {
    "no chain": ("behind", ""),
    "policies accept": ("behind", "".join(chain(hook, "accept") for hook in ("input", "forward", "output"))),
    "by interface": (
        "behind", chain("input", "drop", 'iifname { "lo", "ferr*" } accept')
        + chain("forward", "drop", 'oifname "ferrule0" accept', "ct state established,related accept")
        + chain("output", "drop", 'oifname "ferrule0" accept'),
    ),
    "by both ways of the interface": (
        "behind", chain("forward", "drop", 'iifname "ferrule0" accept', 'oifname "ferrule0" accept')
    ),
    "by sender and subnet": (
        "behind", chain("forward", "drop", "ct state established,related accept",
                        "ip saddr 192.168.77.0/24 ip daddr { 192.168.1.0/24, 100.64.0.0/10 } accept"),
    ),
    "what nobody needs": ("tun", chain("forward", "drop")),
    "jump and accept": (
        "tun", 'chain far {\n ct state invalid drop\n iifname "ferrule0" accept\n}\n' + chain("input", "drop", "jump far"),
    ),
    "jump and return": (
        "tun", 'chain far {\n iifname "ferrule0" return\n drop\n}\n' + chain("input", "accept", "jump far"),
    ),
    "others are dropped": (
        "behind", chain("input", "accept", 'iifname "eth0" drop', "ct state invalid drop", "tcp flags & (fin | syn) == fin | syn drop",
                        "ip saddr 203.0.113.0/24 drop", "ip6 saddr 2001:db8::/32 drop"),
    ),
    "tproxy": (
        "tproxy", chain("input", "drop", f"meta mark {MARK} accept") + chain("output", "drop", f"meta mark & 0xffffffff == {MARK} accept",
                                                                            "ct state established accept"),
    ),
    "redirect": (
        "redirect", chain("input", "drop", "ct status dnat accept") + chain("output", "drop", "ct status & dnat == dnat accept",
                                                                           "ct state established accept"),
    ),
    "names": (
        "names", chain("input", "drop", 'iifname "ferrule0" accept', "ip daddr 100.64.0.1 meta l4proto { tcp, udp } th dport 53 accept",
                       "ct state vmap { established : accept, related : accept }"),
    ),
    "names, by loopback": ("names", chain("input", "drop", 'iifname . meta l4proto { "ferrule0" . tcp, "lo" . tcp, "lo" . udp } accept',
                                          "ct state established accept")),
    "links": (
        "links", chain("output", "drop", "tcp dport 7000-8000 accept") + chain("input", "drop", "ct state != new accept"),
    ),
    "reversed path": ("behind", chain("prerouting", "accept", "meta nfproto ipv4 fib saddr . iif oif missing drop")),
}  # fmt: skip


@pytest.mark.parametrize("name", OPEN)
def test_what_lets_it_through_is_seen(judged: Judged, name: str):
    kind, chains = OPEN[name]
    found = judged(chains, SUBJECTS[kind])
    assert found.ok is True, found


UNKNOWN = {
    "a limit": ("tun", chain("input", "drop", 'iifname "ferrule0" limit rate 10/second accept'), "unless accepted by"),
    "a set that fills itself": (
        "behind", "set bad { type ipv4_addr; flags timeout; timeout 1m; }\n" + chain("forward", "accept", "ip saddr @bad drop"),
        "for some of it: rule `ip saddr @bad drop`",
    ),
    "a part of the subnet": ("behind", chain("forward", "accept", "ip daddr 100.64.3.0/24 drop"), "for some of it"),
    "a way nobody knows": ("behind", chain("forward", "accept", 'iifname "eth7" drop'), "for some of it"),
    "who sends": ("behind", chain("output", "accept", "meta skuid 33 drop"), "for some of it"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_cannot_be_judged_is_said_to_be_so(judged: Judged, name: str):
    kind, chains, words = UNKNOWN[name]
    found = judged(chains, SUBJECTS[kind])
    assert found.ok is None, found
    assert found.text.startswith("cannot be judged: inet guard ")
    assert words in found.text
    assert "`nft insert rule inet guard " in found.text


def test_each_command_that_is_given_helps(judged: Judged):
    """All that it says is done, as often as it says something; then there is nothing left to say."""
    every = BEHIND._replace(
        modes=("tun", "tproxy", "redirect"),
        names=ASKED,
        dials=(("10.9.0.2", 7440), ("fd00::9", 7440)),
    )
    rules: dict[str, list[str]] = {"input": [], "forward": [], "output": []}
    found = Finding("firewall", ok=False, text="")
    for _ in range(20):
        found = judged("".join(chain(hook, "drop", *some) for hook, some in rules.items()), every)
        if found.ok:
            break
        for command in found.text.split("`nft insert rule inet guard ")[1:]:
            hook, rule = command.partition("`")[0].split(" ", 1)
            assert rule not in rules[hook], "it was no help"
            rules[hook].insert(0, rule)
    assert found.ok, found


def test_one_version_of_ip_is_not_the_other(judged: Judged):
    six = TUN._replace(pools=("100.64.0.0/10", "fd64::/64"))
    found = judged(chain("input", "drop"), six, family="ip6")
    assert found.ok is False
    assert "ip6 guard input" in found.text
    assert judged(chain("input", "drop"), TUN, family="ip6").ok
    assert judged(chain("input", "drop"), six, family="ip").ok is False


NAT = "chain out {{\ntype nat hook postrouting priority srcnat;\n{}\n}}"


@pytest.mark.parametrize(
    ("rule", "ok"),
    [
        ('oifname "eth0" masquerade', True),
        ('oifname { "eth0", "wwan0" } masquerade', True),
        ('oifname "ferrule0" accept\nmasquerade', True),
        ("masquerade", False),
        ('oifname "ferrule0" snat ip to 10.0.0.1', False),
        ('ip saddr 172.17.0.0/16 oifname != "docker0" counter masquerade', False),
        ('oifname "eth0" masquerade comment "ferrule0"', True),
    ],
)
def test_who_masks_devices_is_found(judged: Judged, rule: str, ok: bool):
    found = judged(NAT.format(rule), TUN, by=masquerade)
    assert found.ok is ok, found
    if not ok:
        assert "restrict the rule `" in found.text
