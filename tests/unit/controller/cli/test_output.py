"""Tables and values as people read them; text from elsewhere cannot drive the terminal."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.cli import account, output


@given(st.text())
def test_nothing_that_a_terminal_obeys_gets_through(text: str):
    shown = output.clean(text)
    assert shown
    assert not any(unicodedata.category(char)[0] == "C" for char in shown)
    assert len(shown.splitlines()) == 1 or not shown.splitlines()[1:]


def test_an_escape_sequence_is_shown():
    assert (
        output.clean("a\x1b]0;owned\x07b\u202ec\nd\u2028") == r"a\x1b]0;owned\x07b\u202ec\nd\u2028"
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), ("", "-"), ([], "-"), (True, "yes"), (["a", "b"], "a, b"), (7, "7"), ({"a": 1}, "a=1")],
)  # fmt: skip
def test_values(value: object, shown: str):
    assert output.clean(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (250_000, "250 kB"), (7_200_000_000, "7.2 GB"),
     (5_000_000_000_000, "5.0 TB"), (None, "-")],
)  # fmt: skip
def test_sizes(value: object, shown: str):
    assert output.size(value) == shown


def test_a_time_is_shown_to_the_second():
    assert output.moment("2026-01-31T17:00:00.123456Z") == "2026-01-31 17:00:00Z"
    assert output.moment(None) == "-"


def test_a_table_has_its_columns_below_their_names(capsys: pytest.CaptureFixture[str]):
    rows: list[dict[str, object]] = [
        {"name": "edge-a", "end_reason": None},
        {"name": "b", "end_reason": "killed"},
    ]
    output.table(rows, ("name", "end_reason"), "none")
    assert capsys.readouterr().out == "name    end reason\nedge-a  -\nb       killed\n"
    output.table([], ("name",), "none")
    assert capsys.readouterr().out == "none\n"


def test_a_status_shows_some_alerts_and_counts_the_rest(capsys: pytest.CaptureFixture[str]):
    status = {"plant": "mill", "controllers": [], "routers": [], "edges": []}
    texts = [{"text": f"plc-{number} has a single path"} for number in range(account.ALERTS + 2)]
    account.print_status({**status, "alerts": texts[: account.ALERTS]})
    assert capsys.readouterr().out.splitlines()[-1] == "alert: plc-9 has a single path"
    account.print_status({**status, "alerts": texts})
    shown = capsys.readouterr().out
    assert shown.count("alert: ") == account.ALERTS
    assert shown.endswith("and 2 more alerts: `ferrule status --json` has all\n")
