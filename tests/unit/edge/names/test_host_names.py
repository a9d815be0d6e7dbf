"""What resolv.conf becomes: the edge first, those of before behind it, everything else as it was."""

from pathlib import Path

import pytest

from edge.machine.changes import MAX_FILE
from edge.machine.making import read_small
from edge.names import host_names
from edge.names.host_names import MARK, choose, resolvers, with_servers

OWN = ("100.64.0.1", "fd00:1::1")
MARKED = MARK.format("mill.internal")


@pytest.mark.parametrize(
    ("before", "others", "servers"),
    [
        ("nameserver 192.0.2.1\n", ["192.0.2.1"], ["192.0.2.1"]),
        ("", ["127.0.0.1"], ["127.0.0.1"]),
        ("nameserver fd00:1::1\nnameserver 192.0.2.1\n", ["192.0.2.1"], ["192.0.2.1"]),
        ("search example.com\n", ["127.0.0.1"], ["127.0.0.1"]),
        (f"{MARKED}\nnameserver 100.64.0.1\nnameserver ::1\n", ["::1"], ["::1"]),
        (
            "nameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver 192.0.2.3\n",
            ["192.0.2.1", "fe80::1%eth0", "192.0.2.3"],
            ["192.0.2.1", "fe80::1%eth0"],
        ),
    ],
)
def test_those_of_before_stay_behind_the_edge(before: str, others: list[str], servers: list[str]):
    """Where nobody is named, a C library asks this very host."""
    content, found = with_servers(before.encode(), OWN, "mill.internal")
    lines = content.decode().splitlines()
    assert lines[: len(servers) + 2] == [
        MARKED,
        "nameserver 100.64.0.1",
        *(f"nameserver {one}" for one in servers),
    ]
    assert [host for host, _ in found] == others
    assert ("search example.com" in lines) == ("search" in before)
    assert with_servers(content, OWN, "mill.internal")[0] == content, "once more is the same"


def test_whom_the_host_asks_is_read_from_its_file_and_that_of_resolved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    own, upstream = tmp_path / "resolv.conf", tmp_path / "upstream"
    monkeypatch.setattr(host_names, "RESOLV_CONF", own)
    monkeypatch.setattr(host_names, "UPSTREAM", upstream)
    assert resolvers() == []
    own.write_text("# nameserver 192.0.2.9\nnameserver 127.0.0.53\nnameserver\nnameserver x\n")
    assert [str(one) for one in resolvers()] == ["127.0.0.53"]
    upstream.write_text("nameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver 127.0.0.53\n")
    assert [str(one) for one in resolvers()] == ["127.0.0.53", "192.0.2.1", "fe80::1"]


@pytest.mark.parametrize("mode", ["none", "resolved"])
async def test_devices_are_answered_other_names_where_resolv_conf_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: str
):
    own, upstream = tmp_path / "resolv.conf", tmp_path / "upstream"
    monkeypatch.setattr(host_names, "RESOLV_CONF", own)
    monkeypatch.setattr(host_names, "UPSTREAM", upstream)

    async def runs() -> bool:
        return True

    monkeypatch.setattr(host_names, "resolved_runs", runs)
    chosen = await choose(mode, "ferrule0", OWN, "mill.internal")
    assert (chosen.mode, chosen.others) == (mode, ())
    own.write_text("nameserver fd00:1::1\nnameserver 100.64.0.1\nnameserver 127.0.0.53\n")
    upstream.write_text("nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n")
    chosen = await choose(mode, "ferrule0", OWN, "mill.internal")
    assert [host for host, _ in chosen.others] == ["127.0.0.53", "192.0.2.1", "192.0.2.2"]


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path):
    path = tmp_path / "resolv.conf"
    path.write_bytes(b"#" * MAX_FILE)
    assert len(read_small(path)) == MAX_FILE
    path.write_bytes(b"#" * (MAX_FILE + 1))
    with pytest.raises(OSError, match="too large"):
        read_small(path)
