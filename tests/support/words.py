"""What people get to read when something is wrong: one sentence, and never a traceback."""

import re

LONGEST = 400


def sentence(stderr: str) -> str:
    """The sentence in what a command wrote to stderr, without the usage lines around it.

    Raises:
        AssertionError: there is none, there are several, or there is a traceback.
    """
    assert "Traceback" not in stderr, stderr
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("Usage: ", "Try '", "Try `"))]
    assert len(said) == 1, f"not one sentence: {stderr!r}"
    words = re.sub(r"^(Error|ferrule(-\w+)?): ", "", said[0])
    assert len(words.split()) > 2, f"not a sentence: {words!r}"
    assert len(words) <= LONGEST, f"{len(words)} characters: {words!r}"
    return words


def last_sentence(stderr: str) -> str:
    """The sentence with which a program ended, below its log.

    Raises:
        AssertionError: it ended without a word, or with a traceback.
    """
    assert "Traceback" not in stderr, stderr
    lines = [line for line in stderr.splitlines() if line.strip()]
    assert lines, "it ended without a word"
    return sentence(lines[-1])
