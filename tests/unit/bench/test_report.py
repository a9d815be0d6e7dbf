"""The reports: whole, self-contained, and honest about what is missing."""

from html.parser import HTMLParser

import pytest

from bench.capacity import statements
from bench.report.page import page
from bench.report.plots import Curve, curves, nines
from bench.report.tables import number, warnings
from bench.report.text import summary
from bench.results import Result
from tests.unit.bench.results import add, made, noise

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Reads a document; remembers its tags, attributes and text, and whether it is well nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def result() -> Result:
    found = noise(1)
    for one in found.measurements:
        if one.scenario == "poll":
            one.ranks = {"50": 100.0, "99": 900.0, "99.9": 4_000.0, "100": 12_000.0}
    for candidate in ("ferrule", "relay"):
        add(found, "poll-64-video", candidate, *[16_000.0] * 6, figure="polls_per_s")
        add(found, "poll-64-video", candidate, *[200.0] * 6, figure="stream_mbit_per_s")
    return found


def test_the_page_needs_nothing_else(result: Result):
    text = page(result)
    found = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "embed", "use", "image"} & set(
        found.tags
    )
    assert not [
        name for name, _ in found.attributes if name in {"src", "href", "xlink:href", "srcset"}
    ]
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    for outside in ("http:", "https:", "//", "url(", "@import", "data:"):
        assert outside not in text


def test_the_page_shows_plots_tables_and_what_is_missing(result: Result):
    add(result, "circuits-1000", "ferrule", *[300.0] * 6, figure="edge_mb")
    found = Page(page(result))
    assert found.tags.count("svg") >= 5
    for said in ("Figures to reach", "NOT reached", "frps, frpc not installed", "three <programs>"):
        assert said in found.text
    assert "@media print" in page(result)


def test_names_from_outside_are_text(result: Result):
    result.left_out["<script>alert(1)</script>"] = "</table>"
    result.versions["<b>bold</b>"] = "1"
    result.what["<b>bold</b>"] = "&"
    found = Page(page(result))
    assert "script" not in found.tags
    assert "b" not in found.tags


def test_a_run_without_measurements_has_a_report_too():
    assert "not measured" in Page(page(made())).text
    assert "not measured" in summary(made())


def test_the_summary_has_every_candidate_and_the_ratio_to_the_relay(result: Result):
    text = summary(result)
    assert "bulk-1-up: one stream, client to server" in text
    assert "relay" in text
    assert "×1.0" in text or "×0.9" in text


def test_what_a_reader_must_know_comes_first():
    result = noise(1, rounds=2)
    result.measurements[0].noisy, result.measurements[0].others = True, 1.5
    result.complete = False
    found = warnings(result)
    assert any("not quiet" in one and "1.5" in one for one in found)
    assert any("stopped before its end" in one for one in found)
    assert any("2 round(s)" in one for one in found)
    assert all(one in summary(result) for one in found)


def test_a_quiet_run_has_no_warning():
    assert warnings(noise(1)) == []


def test_capacity_is_said_in_words_with_its_formula(result: Result):
    (said,) = statements(result)
    # half of 16,000 polls/s, 200 for each HMI
    assert "about 40 HMIs that each poll 20 PLCs every 100 ms" in said.text
    assert "next to one 200 Mbit/s video stream" in said.text
    assert "0.5 × 16,000 ÷ 200" in said.formula


def test_a_video_stream_that_starves_is_not_promised(result: Result):
    add(result, "poll-64-video", "ferrule", *[90.0] * 6, figure="stream_mbit_per_s")
    assert "gets only 90 of its 200 Mbit/s" in statements(result)[0].text


def test_one_edge_alone_is_computed_from_its_cpu_time(result: Result):
    add(result, "poll-64", "ferrule", *[10_000.0] * 6, figure="polls_per_s")
    for one in result.measurements:
        if one.candidate == "ferrule" and one.scenario == "poll-64":
            one.cpu = {"a": 1.0}  # half a core for 10,000 polls: 50 µs each
        if one.candidate == "ferrule" and one.scenario == "poll-64-video":
            one.cpu = {"a": 1.8}  # 0.9 cores, of which 16,000 polls take 0.8
    alone = statements(result)[1]
    # half of (1 - 0.1) / 50 µs = 18,000 polls/s
    assert "about 45 such HMIs" in alone.text
    assert "(1 − 0.10) ÷ 50 µs" in alone.formula


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.12345, "0.123"), (12.345, "12.3"), (1234.5, "1,234")]
)
def test_numbers_have_the_digits_that_say_something(value: float, text: str):
    assert number(value) == text


def test_each_nine_takes_the_same_room():
    assert [round(nines(p), 6) for p in (0, 90, 99, 99.9, 99.99, 100)] == [0, 1, 2, 3, 4, 4]


def test_a_plot_of_nothing_is_nothing():
    assert curves([Curve("a", [], ours=True)], "nothing") == ""
