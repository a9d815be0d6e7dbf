"""The vectors of what people type."""

import json
from pathlib import Path

import pytest

from overlay.errors import InputError
from overlay.policy.sentence import parse_sentence
from overlay.policy.times import parse_duration, parse_time

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/policy.json").read_text())


@pytest.mark.parametrize(("text", "seconds"), VECTORS["durations"].items())
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", VECTORS["no_durations"])
def test_no_durations(text):
    with pytest.raises(InputError):
        parse_duration(text)


@pytest.mark.parametrize(("text", "said"), VECTORS["sentences"].items())
def test_sentences(text, said):
    assert list(parse_sentence([text])) == said


@pytest.mark.parametrize("text", VECTORS["no_sentences"])
def test_no_sentences(text):
    with pytest.raises(InputError):
        parse_sentence([text])


@pytest.mark.parametrize(("text", "micros"), VECTORS["times"].items())
def test_times(text, micros):
    assert parse_time(text, VECTORS["now"], VECTORS["zone"]) == micros
