"""HOST:PORT there and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.addresses import format_address, parse_address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.1:8441", "10.0.0.1", 8441),
        ("dmz.mill.example:1", "dmz.mill.example", 1),
        ("[2001:db8::1]:65535", "2001:db8::1", 65_535),
    ],
)
def test_an_address_there_and_back(text: str, host: str, port: int):
    assert parse_address(text) == (host, port)
    assert format_address(host, port) == text


@pytest.mark.parametrize(
    "text", ["", ":", "host", "host:", ":80", "[]:80", "a:0", "a:65536", "a:-1", "a:٣", "a:" + "9" * 5000]
)  # fmt: skip
def test_what_is_no_address(text: str):
    assert parse_address(text) is None


def test_a_listener_may_leave_the_port_to_the_system():
    assert parse_address("a:0", lowest=0) == ("a", 0)


@given(st.text())
def test_any_text_is_an_address_or_none(text: str):
    parse_address(text)
