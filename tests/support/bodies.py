"""One example of every body, and what their vectors say: `python -m tests.support.bodies` writes the vectors anew.

A body whose vector changes is another protocol: fields are only ever added at the end, with a default (P-10).
"""

import json
from pathlib import Path

import msgspec

from overlay.audit.event import Event, EventName, Outcome
from overlay.control import messages
from overlay.fabric import authority
from overlay.policy.grant import Grant
from overlay.wire import bodies
from overlay.wire.codec import Body, Signed, encode

VECTORS = Path(__file__).parents[1] / "vectors/bodies.json"

TIME = 1_785_924_000_000_000
ID, OTHER_ID = bytes(range(16)), bytes(range(16, 32))
HASH, RANDOM = bytes(range(32)), bytes(range(32, 64))
LISTENER = messages.ListenerEntry("plc-b.modbus", "127.0.0.1:1502", "hmi-a", bodies.STREAM)
HOSTED = messages.HostedEntry(
    "plc-b.modbus", "plc-b", "10.0.0.5", 502, 502, bodies.STREAM, 1, 10, True
)
PORTS = messages.ServicePorts("plc-b.modbus", 502, 502, bodies.STREAM, True)
INTERCEPT = messages.InterceptEntry(
    "plc-b", 16, (PORTS,), "hmi-a", 1, ("192.168.1.0/24",), True, "192.168.7.0/24"
)
BEHIND = messages.BehindEntry("hmi-a", "192.168.1.10", "00:1b:1b:aa:bb:cc")
KILL = authority.Kill(ID, "zone", "cell-1", "smoke", TIME, 0)

EXAMPLES: tuple[Body, ...] = (
    Signed("grant", b"\x90", HASH, bytes(64), (b"leaf", b"issuing")),
    bodies.OpenIntent(
        ID, OTHER_ID, 7, "plc-b.modbus", bodies.NORMAL, bodies.STREAM, RANDOM, b"grant", "edge-b", 0,
        b"\xc0\xa8\x01\x14",
    ),
    bodies.Open(b"intent", b"flight", b"early", ("router-1", "edge-b"), ("edge-a",)),
    bodies.Accept(RANDOM, b"flight", b"ready", b"data"),
    bodies.Refusal(4, "no conduit"),
    bodies.Ready(3),
    bodies.ResumeIntent(ID, OTHER_ID, 7, "edge-b", "plc-b.modbus", b"grant"),
    bodies.Resume(b"intent", b"sealed", ("edge-b",), ("edge-a",)),
    bodies.ResumeState(1, 12, 262_144),
    bodies.Hello(ID, bodies.EXPRESS, 3, "0.1.0", 2),
    bodies.Attach((b"attachment",)),
    bodies.Publish(b"authority"),
    bodies.Heads((b"older head", b"newer head")),
    bodies.Load(2),
    bodies.Attachment("edge-a", (("router-1", 1500),), 3, 9, TIME, ("plc-b",)),
    bodies.LocalKill("smoke", TIME),
    bodies.TreeHead(8, HASH, TIME),
    Grant(
        ID, "c1", HASH, "hmi-a", "edge-a", "plc-b.modbus", "plc-b", ("edge-b",), bodies.STREAM,
        bodies.STRICT, TIME, TIME + 600_000_000, TIME + 28_800_000_000, 0, 3600, ("office", "site"),
        ("cell-1", "site"), 5, 2, "192.168.1.10",
    ),
    KILL,
    authority.Revocation("edge-a", 2),
    authority.Withdrawal("c1", TIME),
    authority.Authority(
        12, TIME, (KILL,), (authority.Revocation("edge-x", 1),), (authority.Withdrawal("c1", TIME),),
        b"head",
    ),
    authority.RouterEntry("router-1", "router.example:7400", ("router-2",)),
    authority.FabricMap(4, (authority.RouterEntry("router-1", "router.example:7400"),)),
    Event(
        "edge-a", 41, TIME, EventName.CIRCUIT_OPEN, Outcome.DENIED, "hmi-a", "edge-a", "plc-b",
        "plc-b.modbus", "10.0.0.5:502", "c1", "no conduit", ID.hex(), 3, "{}", 1,
    ),
    LISTENER,
    HOSTED,
    PORTS,
    INTERCEPT,
    BEHIND,
    messages.Start("0.1.0", 3, 41, 1),
    messages.Ask(ID, 12),
    messages.Enrol(1, ID, b"csr", HASH),
    messages.Renew(2, b"csr"),
    messages.Events(3, 41, (b"event",), (b"leaf", b"issuing"), 1),
    messages.Live(((ID, 120, 340),)),
    messages.Prove(4, (5, 8), 13),
    messages.Measured(5, (1500, 0)),
    messages.Answer(ID, TIME, 12),
    messages.Issued(1, (b"leaf", b"issuing")),
    messages.Recorded(3, 41, b"head", ((8, b"leaf", (HASH,)),)),
    messages.Failed(2, 14, "the token is not valid"),
    messages.Assignments(
        6, b"map", (LISTENER,), (HOSTED,), (INTERCEPT,), (BEHIND,), ("100.64.0.0/10",), "mill.internal"
    ),
    messages.GrantUpdate(full=True, put=(b"grant",), drop=(ID,), more=False),
    messages.Current(b"authority"),
    messages.Proofs(4, ((HASH,), (HASH, HASH))),
    messages.Measure(5, ("router-1", "router-2")),
)  # fmt: skip


def plain(value: object) -> object:
    """What MessagePack holds, as JSON: bytes as {"hex": …}."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def unplain(value: object) -> object:
    """The reverse of `plain`."""
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"])
    if isinstance(value, list):
        return [unplain(one) for one in value]
    return value


def main() -> None:
    """Writes the vectors of all examples."""
    entries = [
        {
            "body": type(example).__name__,
            "array": plain(msgspec.msgpack.decode(encode(example))),
            "msgpack": encode(example).hex(),
        }
        for example in EXAMPLES
    ]
    VECTORS.write_text(
        "[\n" + ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries) + "\n]\n"
    )


if __name__ == "__main__":
    main()
