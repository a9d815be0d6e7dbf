"""Names, services, ports, protocols: what is taken, what is refused and with which words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import InputError
from overlay.policy import names
from overlay.wire.bodies import DATAGRAMS, STREAM


def said_in_one_line(error: InputError) -> None:
    assert str(error).isprintable()


@pytest.mark.parametrize(
    ("text", "name"),
    [("plc-b", "plc-b"), ("PLC-B", "plc-b"), (" hmi1 ", "hmi1"), ("7", "7"), ("a" * 63, "a" * 63)],
)
def test_a_name_is_taken_in_lower_case(text, name):
    assert names.parse_name(text) == name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        ("a" * 64, "64 characters: at most 63"),
        ("-a", "none at either end"),
        ("a-", "none at either end"),
        ("a_b", "letters, digits and hyphens"),
        ("a.b", "letters, digits and hyphens"),
        ("größe", "letters, digits and hyphens"),
        ("a\nb", "'a?b' cannot"),
        ("٣", "letters, digits and hyphens"),
    ],
)
def test_what_is_no_name_is_refused(text, said):
    with pytest.raises(InputError, match=said.replace("(", r"\(").replace("?", r"\?")):
        names.parse_name(text, "asset")


@given(st.text(max_size=80))
def test_any_text_is_a_name_or_one_error(text):
    try:
        name = names.parse_name(text)
    except InputError as error:
        said_in_one_line(error)
    else:
        assert names.parse_name(name) == name
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_principals_are_names_or_tags():
    assert names.parse_principal("HMI-A") == "hmi-a"
    assert names.parse_principal("TAG:Pumps") == "tag:pumps"
    for wrong in ("tag:", "tag:a b", "zone:x", ""):
        with pytest.raises(InputError):
            names.parse_principal(wrong)


def test_services_are_asset_and_protocol():
    assert names.parse_service("PLC-b.Modbus") == ("plc-b", "modbus")
    for wrong in ("plc-b", "a.b.c", ".modbus", "plc-b.", ""):
        with pytest.raises(InputError):
            names.parse_service(wrong)


@pytest.mark.parametrize(
    ("text", "ports"), [("502", (502, 502)), ("1-65535", (1, 65535)), ("7-7", (7, 7))]
)
def test_ports(text, ports):
    assert names.parse_ports(text) == ports


@pytest.mark.parametrize(
    "text", ["", "0", "65536", "5-4", "-5", "5-", "a", "1-2-3", "٣", "1 2", "999999999999999999"]
)
def test_wrong_ports_say_how_to_write_one(text):
    with pytest.raises(InputError, match="is not a port: write 502"):
        names.parse_ports(text)


def test_an_unknown_protocol_is_answered_with_what_is_near():
    with pytest.raises(InputError, match=r"unknown protocol 'modbsu': did you mean modbus\?"):
        names.known_protocol("modbsu")
    with pytest.raises(InputError, match=r"did you mean custom\?"):
        names.known_protocol("custm", ["custom"])
    with pytest.raises(InputError, match="ferrule add service ASSET xyzzyqq --port N"):
        names.known_protocol("xyzzyqq")
    assert names.known_protocol("Custom", ["custom"]) == "custom"
    assert names.known_protocol("S7") == "s7"


def test_every_known_protocol_can_be_named_and_dialled():
    for name, (port, transport) in names.PROTOCOLS.items():
        assert names.parse_name(name) == name
        assert 1 <= port <= 65535
        assert transport in {STREAM, DATAGRAMS}


@given(st.text())
def test_what_is_shown_is_one_printable_short_line(text):
    assert names.shown(text).isprintable()
    assert len(names.shown(text)) <= 82


def test_lists_for_people():
    assert names.listed([]) == ""
    assert names.listed(["a"]) == "a"
    assert names.listed(["a", "b", "c"]) == "a, b and c"
    assert names.listed(str(n) for n in range(10)) == "0, 1, 2, 3, 4, 5, 6, 7 and 2 more"
