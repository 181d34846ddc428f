"""What the report shows of an attack's own notes: layers, twins, bins, a search's course."""

import re
from pathlib import Path
from typing import Any

import pytest
import report_store as made
import torch

from seepage.report import Report
from seepage.report.results import results

CHAIN = {
    "layers": [
        {
            "name": f"conv{i}",
            "kind": "Conv2d",
            "unknowns": 3072,
            "deficit": -i,
            "residual": 3e-7,
            "iterations": 480 + i,
            "ambiguous": 5 * i,
        }
        for i in range(3)
    ],
    "candidates": [
        {"label": 1, "residual": 1e-7, "kept": True, "best": True, "note": ""},
        {"label": 0, "residual": 2e-7, "kept": False, "best": False, "note": ""},
        {"label": 2, "residual": 0.9, "kept": False, "best": False, "note": ""},
        {"label": 0, "residual": 0.5, "kept": False, "note": "left the box"},
    ],
}
BINS = {"bins": [7, 2, 5], "certified": [True, True, False], "live": 3, "rows": 8}


def page(folder: Path, *rows: dict[str, Any]) -> str:
    text = Report([*rows], folder).save(folder / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\s+", " ", text.partition("<body>")[2])


def test_a_recursion_is_a_table_of_its_layers(tmp_path: Path) -> None:
    text = page(tmp_path, made.traced(tmp_path, CHAIN, {}, attack="RGap()"))
    assert "Solved layer by layer" in text
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", text.partition('class="chain"')[2])
    assert cells[:6] == ["conv0", "3,072", "0", "3e-7", "480", "0"]
    assert cells[6:12] == ["conv1", "3,072", "1", "3e-7", "481", "5"]
    assert "Twins" not in text


def test_twins_stand_side_by_side_with_what_tells_them_apart(tmp_path: Path) -> None:
    row = made.traced(tmp_path, CHAIN, {"trace/twins": made.photos(3)}, attack="RGap()")
    text = page(tmp_path, row)
    assert "Twins: these answers explain the gradient alike" in text
    assert "label 1, residual 1e-7, the answer" in text
    assert "label 0, residual 2e-7, its twin" in text
    assert "label 2" not in text
    alone = made.traced(tmp_path, CHAIN, {"trace/twins": made.photos(1)}, attack="RGap()")
    assert "Twins" not in page(tmp_path, alone)


def test_an_imprint_shows_its_bins_and_where_each_answer_came_from(tmp_path: Path) -> None:
    row = made.traced(
        tmp_path, BINS, {}, attack="Imprint(bins=8)", malicious=True, matched=[1, 0, None]
    )
    text = page(tmp_path, row)
    assert "sorts examples into 8 bins. 3 caught something; 2 answers" in text
    states = re.findall(r'<i class="(\w+)"></i>', text.partition('class="bins"')[2])[:8]
    assert states == ["idle", "idle", "certified", "idle", "idle", "live", "idle", "certified"]
    evidence = text.partition('id="evidence"')[2].split('<li class="pair">')[1:]
    read = {
        number: re.findall(r"from bin (\d)", pair)
        for pair in evidence
        for number in re.findall(r"Original image (\d) of 3", pair)
    }
    assert read == {"1": ["2"], "2": ["7"], "3": []}


def test_answers_that_an_attack_certifies_are_known_to_be_right(tmp_path: Path) -> None:
    row = made.traced(tmp_path, BINS, {}, matched=[1, 2, 0])
    assert results([row])[0].sure == (True, False, True)
    assert results([row])[0].certain == 2
    assert results([row | {"trace": {}, "residual": [1e-9, 0.5, 1e-9]}])[0].certain == 2
    assert results([row | {"recovered": [False, True, True]}])[0].misled


def test_a_search_has_a_course_and_a_strip_of_its_pictures(tmp_path: Path) -> None:
    frames = torch.rand(4, 3, 3, 64, 64)
    text = page(
        tmp_path, made.traced(tmp_path, made.COURSE, {"trace/frames": frames}, matched=[2, 1, 0])
    )
    assert "0.4 at the start, 4e-3 at its lowest, 8e-3 at the end (logarithmic)" in text
    assert re.search(r'points="80.0,4.0 160.0,44.0 240.0,84.0 320.0,7\d.\d"', text)
    assert re.findall(r"Image \d at (\d+) % of the search", text) == ["25", "50", "75", "100"]


def test_the_scorers_decibels_stand_beside_the_pictures_on_the_way(tmp_path: Path) -> None:
    frames = {"trace/frames": torch.rand(3, 3, 3, 64, 64)}
    row = made.traced(tmp_path, made.COURSE, frames, matched=[2, 1, 0])
    text = page(tmp_path, row | {"frames_psnr": [[9.0, 14.0, 19.0]] * 3})
    assert "known to the scorer alone: the answer&#39;s PSNR, 9.0 dB" in text
    assert '<polyline class="near" points="106.7,84.0 213.3,44.0 320.0,4.0"/>' in text
    assert re.findall(r"<span>(\d+ %, [\d.]+ dB)</span>", text)[1] == "67 %, 14.0 dB"
    for broken in ("much", [[None, "x"]], [[float("inf"), 1.0]], [3]):
        assert 'class="near"' not in page(tmp_path, row | {"frames_psnr": broken})


def test_a_certificate_is_said_whether_it_holds_or_not(tmp_path: Path) -> None:
    text = page(tmp_path, made.traced(tmp_path, made.CERTIFICATE, {}, attack="Span()"))
    assert "leaves 4e-7 of the equations unexplained, and 2e-6 is allowed: it holds." in text
    assert "span 3 dimensions. It took 2 starts." in text
    broken = made.traced(tmp_path, made.CERTIFICATE | {"residual": 0.25}, {}, attack="Span()")
    assert "it does not hold" in page(tmp_path, broken)


@pytest.mark.parametrize(
    "trace",
    [
        {"layers": "many", "bins": 3, "objective": None, "residual": "small"},
        {"layers": [None, {"name": made.WORDS}], "candidates": 3},
        {"bins": [None, "x"], "rows": 4, "certified": None},
        {"bins": [1, 2], "rows": 10**9, "certified": [True, True], "live": 2},
        {"done": [0, 1], "objective": [None, 1.0]},
        {"done": [0, 0.5, 1, 7], "objective": [-1.0, 0.0, 1.0, 1e308]},
        {"residual": None, "enough": 1.0},
    ],
)
@pytest.mark.parametrize("shape", [(2,), (9, 1, 3, 8, 8), (3, 0, 3, 64, 64), (2, 3, 8, 8)])
def test_damaged_notes_are_left_out(tmp_path: Path, trace: Any, shape: tuple[int, ...]) -> None:
    tensors = {"trace/frames": torch.zeros(shape), "trace/twins": torch.zeros(shape)}
    row = made.traced(tmp_path, trace, tensors, matched=["x", 10**9, True])
    text = page(tmp_path, row)
    assert "Evidence" in text
    assert not re.search(r"\bnan\b", re.sub(r'src="[^"]*"', "", text).lower())


def test_hostile_notes_are_escaped(tmp_path: Path) -> None:
    hostile = "</script><script>window.broken = 1</script>"
    trace = {"layers": [{"name": hostile, "unknowns": hostile, "residual": hostile}]}
    text = page(tmp_path, made.traced(tmp_path, trace, {}))
    assert "<script>window" not in text
    assert "&lt;script&gt;" in text


def test_pictures_of_many_searches_stay_within_the_budget(tmp_path: Path) -> None:
    noise = {"trace/frames": torch.rand(8, 3, 3, 64, 64)}
    rows = [
        made.traced(tmp_path, made.COURSE, noise, attack=f"Invert(steps={i})") for i in range(24)
    ]
    path = Report(rows, tmp_path).save(tmp_path / "page.html")
    assert path.stat().st_size < 5_000_000
    assert path.read_text().count('class="strip"') == 8
