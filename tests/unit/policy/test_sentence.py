"""Sentences in both forms, and whether a plant has what they name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import InputError
from overlay.policy.model import Asset, Edge, Plant, Service, Zone
from overlay.policy.sentence import Sentence, check_ends, parse_sentence

TWO_HOURS = Sentence("hmi-a", "plc-b", "modbus", 7200)
PLAIN = Sentence("hmi-a", "plc-b", "modbus")
FRIDAY = Sentence("hmi-a", "plc-b", "modbus", until="friday 18:00")


def said_in_one_line(error: InputError) -> None:
    assert str(error).isprintable()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hmi-a to plc-b over modbus for 2h", TWO_HOURS),
        ("HMI-A TO plc-b OVER Modbus FOR 2h", TWO_HOURS),
        ("hmi-a plc-b modbus for 2h", TWO_HOURS),
        ("hmi-a to plc-b over modbus for 1h 60m", TWO_HOURS),
        ("hmi-a to plc-b.modbus for 2h", TWO_HOURS),
        ("hmi-a > plc-b.modbus > 2h", TWO_HOURS),
        ("hmi-a>plc-b.modbus>2h", TWO_HOURS),
        ("hmi-a > plc-b . modbus > for 2h", TWO_HOURS),
        ("hmi-a plc-b modbus", PLAIN),
        ("hmi-a to plc-b over modbus", PLAIN),
        ("hmi-a to plc-b.modbus", PLAIN),
        ("hmi-a > plc-b.modbus", PLAIN),
        ("hmi-a to plc-b over modbus until friday 18:00", FRIDAY),
        ("hmi-a > plc-b.modbus > until friday 18:00", FRIDAY),
        ("tag:pumps to cell-1 over s7", Sentence("tag:pumps", "cell-1", "s7")),
        ("cell-1 > tag:Pumps.s7", Sentence("cell-1", "tag:pumps", "s7")),
        ("to to to over over", Sentence("to", "to", "over")),
    ],
)
def test_sentences(text, said):
    assert parse_sentence(text.split()) == said
    assert parse_sentence([text]) == said


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "say who may reach what"),
        ("hmi-a", "'hmi-a' may reach what"),
        ("hmi-a to", "'hmi-a' may reach what"),
        ("hmi-a to plc-b", "over which protocol may 'hmi-a' reach 'plc-b'"),
        ("hmi-a plc-b", "over which protocol"),
        ("hmi-a to plc-b for 2h", "over which protocol"),
        ("hmi-a to plc-b over", "over which protocol"),
        ("hmi-a to plc-b over modbus for", "for when"),
        ("hmi-a to plc-b over modbus until", "until when"),
        ("hmi-a to plc-b over modbus for ever", "'ever' is not a duration"),
        ("hmi-a to plc-b over modbus read-only", "'read-only' is left over"),
        ("hmi-a to plc-b over modbus/502", "the port belongs to the service"),
        ("hmi_a to plc-b over modbus", "'hmi_a' cannot be a name"),
        ("hmi-a > plc-b > 2h", "'plc-b' lacks a protocol"),
        ("hmi-a > plc-b.modbus >", "is not a sentence"),
        ("hmi-a >", "is not a sentence"),
        ("> plc-b.modbus", "the name is empty"),
        ("a > b.c > 2h > 3h", "is not a sentence"),
        ("x" * 2000, "too long"),
    ],
)
def test_what_is_no_sentence_says_which_part_is_wrong(text, problem):
    with pytest.raises(InputError) as caught:
        parse_sentence(text.split() or [text])
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    "words", [["> 0\n0"], ["a\x1b[31m", "to", "b"], ["a", "to", "b\x07"], ["a", "b", "c\x1b/1"]]
)
def test_what_was_typed_never_reaches_the_terminal_raw(words):
    with pytest.raises(InputError) as caught:
        parse_sentence(words)
    said_in_one_line(caught.value)


@given(
    st.lists(
        st.one_of(
            st.sampled_from(["to", "over", "for", "until", ">", ".", "2h", "plc-b", "a.b", "tag:"]),
            st.text(max_size=8),
        ),
        max_size=8,
    )
)
def test_any_words_are_a_sentence_or_one_error(words):
    try:
        said = parse_sentence(words)
    except InputError as error:
        said_in_one_line(error)
    else:
        assert not (said.duration and said.until)


PLANT = Plant(
    zones=(Zone("cell-1"),),
    edges=(Edge("edge-a"),),
    assets=(Asset("hmi-a", ("edge-a",), tags=("panels",)),),
    services=(Service("hmi-a", "custom", 4444, 4444),),
    users=("anna",),
    routers=("router-1",),
)


@pytest.mark.parametrize("who", ["hmi-a", "edge-a", "anna", "cell-1", "tag:panels"])
def test_everything_that_can_reach_something(who):
    check_ends(PLANT, who, "hmi-a", "custom")


@pytest.mark.parametrize("to", ["hmi-a", "edge-a", "cell-1", "tag:panels"])
def test_everything_that_can_be_reached(to):
    check_ends(PLANT, "hmi-a", to, "modbus")


@pytest.mark.parametrize(
    ("who", "to", "protocol", "problem"),
    [
        ("hmi-x", "hmi-a", "modbus", "nothing in this plant is named 'hmi-x': did you mean hmi-a"),
        ("qqq", "hmi-a", "modbus", "nothing in this plant is named 'qqq': see ferrule ls asset"),
        ("hmi-a", "anna", "modbus", "anna is a user and cannot be reached"),
        ("router-1", "hmi-a", "modbus", "router-1 is a router and cannot reach anything"),
        ("tag:panel", "hmi-a", "modbus", "no asset has the tag 'panel': did you mean tag:panels"),
        ("tag:qqq", "hmi-a", "modbus", "no asset has the tag 'qqq': give it to one first"),
        ("hmi-a", "edge-a", "modbsu", "unknown protocol 'modbsu': did you mean modbus?"),
    ],
)
def test_names_that_the_plant_does_not_have(who, to, protocol, problem):
    with pytest.raises(InputError) as caught:
        check_ends(PLANT, who, to, protocol)
    assert problem in str(caught.value)
