"""The report: its words, curves, escaping, size, and what it never says."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import report_store as made
import torch

from seepage import files
from seepage.errors import Failed, InvalidInput
from seepage.forms import Images, form_to
from seepage.report import Report, expressions, limits, sentences, words
from seepage.report.results import Group, results

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7*7 }} \x02&amp;\x03'


@pytest.fixture(scope="session")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("audited")
    return Report(made.store(folder), folder)


@pytest.fixture(scope="session")
def page(audited: Report, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = audited.save(tmp_path_factory.mktemp("page") / "deep" / "report.html")
    return path.read_text(encoding="utf-8")


def html(rows: list[dict[str, object]], folder: Path) -> str:
    return Report(rows, folder).save(folder / "page.html").read_text(encoding="utf-8")


def without_pictures(page: str) -> str:
    return re.sub(r"data:image/png;base64,[\w+/=]*", "", page)


def test_the_table_names_the_worst_case_of_each_client(audited: Report) -> None:
    text = str(audited)
    first = text.splitlines()[4]
    for part in ("FedSGD()", "BiasRatio()", "batch size", "8 of 8", "130.4", "15.4"):
        assert part in first, first
    assert text.count("adaptive") >= 4
    assert "naive" not in text.split("\n\n", maxsplit=1)[0]


def test_the_table_prints_brackets_of_data_as_they_are(tmp_path: Path) -> None:
    assert "[red]A[/red]" in str(Report([made.row(client="[red]A[/red]")], tmp_path))


def test_recovered_is_the_worst_share(audited: Report, tmp_path: Path) -> None:
    assert audited.recovered == 1.0
    assert Report([made.row(), made.row(n=8)], tmp_path).recovered == 0.5
    assert Report([made.row(n=8)], tmp_path).recovered == 1 / 8


def test_what_was_not_measured_has_no_share(tmp_path: Path) -> None:
    report = Report([made.failed()], tmp_path)
    with pytest.raises(Failed, match="none of 1 trials finished"):
        _ = report.recovered
    assert "Nothing was measured" in str(report)
    assert "MaxPool2d" in html(report.rows, tmp_path)
    assert json.loads(report.to_json())["recovered"] is None


def test_an_empty_store_is_reported(tmp_path: Path) -> None:
    assert "Nothing was measured" in str(Report([], tmp_path))
    assert "Nothing was measured" in html([], tmp_path)


def test_json_is_strict_and_complete(audited: Report) -> None:
    found = json.loads(audited.to_json(), parse_constant=pytest.fail)
    assert found["recovered"] == 1.0
    assert found["trials"] == {"done": 24, "failed": 2}
    worst = found["clients"][0]
    assert (worst["client"], worst["attack"]) == ("FedSGD()", "BiasRatio()")
    assert worst["baseline"] == {"name": "mean of public", "recovered": 0, "best": 15.4}
    assert found["clients"][-1]["severity"] == "Not recovered by these attacks"
    assert found["verdict"] == audited.verdict


def test_json_holds_null_for_scores_that_are_missing(tmp_path: Path) -> None:
    row = made.row(scores={"psnr": [None, None]}, recovered=[False, False])
    assert json.loads(Report([row], tmp_path).to_json())["clients"][0]["best"] is None


def test_the_verdict_says_what_was_shown_and_under_which_assumptions(audited: Report) -> None:
    verdict = audited.verdict
    for part in (
        "All 8 private images could be read back from one update.",
        "attack BiasRatio()",
        "honest server",
        "told the number of examples",
        "the attacker holds a certificate for",
        "(mean of public) recovers 0 of 8, at best 15.4 dB",
        "an attacker who knows what the client does recovers more",
        "2 of 26 trials failed",
        "What the client does: It computes one gradient of the loss over its whole batch.",
        "No example was recovered by these attacks from Prune(FedSGD(), ratio=0.99)",
        "No attacker was told the labels.",
    ):
        assert part.lower() in verdict.lower(), part


def test_the_verdict_names_what_was_not_tried(tmp_path: Path) -> None:
    prune = "Prune(inner=FedSGD(), ratio=0.99)"
    rows = [made.row(client=prune, believed="FedSGD()")]
    verdict = Report(rows, tmp_path).verdict
    assert "No server that manipulates the model was tried." in verdict
    assert (
        f"Against {words.label(prune)}, only attackers that ignore what the client does" in verdict
    )
    assert "Only one attack was run." in verdict
    assert "Some searches stopped when their budget was spent" in verdict
    told = Report([made.row(tell=["n", "y"], malicious=True)], tmp_path).verdict
    assert "No server that manipulates" not in told
    assert "told the labels." not in told.split("Not tried")[1]
    assert "malicious server" in told


def test_the_verdict_tells_what_an_honest_server_gets(tmp_path: Path) -> None:
    crafted = made.row(recovered=[True, True], malicious=True, attack="Imprint()")
    verdict = Report([crafted, made.row()], tmp_path).verdict
    assert "An honest server recovers 1 of 2 at most: client FedSGD()" in verdict
    assert "An honest server" not in Report([made.row()], tmp_path).verdict


def test_the_verdict_tells_what_leaked_beside_whole_examples(tmp_path: Path) -> None:
    row = made.row(recovered=[False, False], identified=[True, False])
    verdict = Report([row], tmp_path).verdict
    assert "1 of 2 answers lie closer to their own original" in verdict
    assert "up to 100 % of them were inferred, where chance gives 19 %" in verdict
    told = Report([row | {"tell": ["n", "y"]}], tmp_path).verdict
    assert "Labels leak" not in told


def test_nothing_recovered_is_said_of_these_attacks_only(tmp_path: Path) -> None:
    row = made.row(scores={"psnr": [12.0, 12.0]}, recovered=[False, False])
    report = Report([row], tmp_path)
    assert report.verdict.startswith("None of 2 private images was recovered by these attacks.")
    assert "may be recovered by others" in report.verdict
    assert report.recovered == 0


@pytest.mark.parametrize(
    ("recovered", "says"),
    [
        ([True], "The private image could be read back from one update."),
        ([False], "The private image was not recovered by these attacks."),
        ([True, True, True], "All 3 private images could be read back from one update."),
        ([True, False, True], "2 of 3 private images could be read back from one update."),
        ([False, False], "None of 2 private images was recovered by these attacks."),
    ],
)
def test_the_headline_counts_in_plain_words(
    recovered: list[bool], says: str, tmp_path: Path
) -> None:
    row = made.row(recovered=recovered, n=len(recovered))
    assert Report([row], tmp_path).verdict.startswith(says)


def test_an_attack_that_only_matches_a_guess_shows_no_leak(tmp_path: Path) -> None:
    guess = {"nearest public": {"psnr": [44.0, 12.0], "recovered": [True, False]}}
    report = Report([made.row(baselines=guess)], tmp_path)
    assert "a guess without the update does as well" in report.verdict
    assert json.loads(report.to_json())["clients"][0]["severity"] == "No better than a guess"


def test_what_a_guess_explains_does_not_hide_a_leak(tmp_path: Path) -> None:
    guess = {"nearest public": {"psnr": [44.0], "recovered": [True]}}
    rows = [made.row(recovered=[True], n=1, baselines=guess, attack="Easy()"), made.row(n=4)]
    report = Report(rows, tmp_path)
    assert report.verdict.startswith("1 of 4 private images could be read back")
    assert report.recovered == 1.0


@pytest.mark.parametrize("recovered", [[True, True], [True, False], [False, False]])
@pytest.mark.parametrize("kind", ["done", "failed"])
def test_nothing_is_ever_called_safe(recovered: list[bool], kind: str, tmp_path: Path) -> None:
    row = made.row(recovered=recovered) if kind == "done" else made.failed()
    report = Report([row], tmp_path)
    # The content policy of the page has a word of its own for the styles that stand in it.
    page = html([row], tmp_path).replace("'unsafe-inline'", "")
    for text in (str(report), report.verdict, report.to_json(), page):
        found = re.findall(r"\b(?:un)?saf(?:e|ely|ety)\b|\bsecure\b|\bprotected\b", text.lower())
        assert not found


def test_a_residual_is_the_attackers_certificate(tmp_path: Path) -> None:
    def certain(residual: list[float | None], recovered: list[bool]) -> int:
        row = made.row(residual=residual, recovered=recovered)
        return json.loads(Report([row], tmp_path).to_json())["clients"][0]["known_right"]

    assert certain([1e-9, 1e-9], [True, True]) == 2
    assert certain([1e-9, 0.3], [True, True]) == 1
    assert certain([None, None], [True, True]) == 0
    # One wrong answer that explains the update as well, and no answer is sure any more.
    assert certain([1e-9, 1e-9], [True, False]) == 0


@pytest.mark.parametrize(
    ("texts", "label", "values"),
    [
        (["Prune(inner=FedSGD(), ratio=0.5)", "Prune(inner=FedSGD())"], "Prune.ratio", [0.5, 0.9]),
        (["FedAvg(epochs=2)", "FedAvg(epochs=5)", "FedAvg()"], "FedAvg.epochs", [1, 2, 5]),
        (["Their(2, FedSGD())", "Their(3, FedSGD())"], "Their.argument 1", [2, 3]),
        (["Their(std=-1)", "Their(std=1)"], "Their.std", [-1, 1]),
    ],
)
def test_one_varying_number_makes_a_family(
    texts: list[str], label: str, values: list[float]
) -> None:
    (family,) = expressions.families(texts)
    assert family.label == label
    assert sorted(family.values.values()) == values


@pytest.mark.parametrize(
    "texts",
    [
        ["Prune(inner=FedSGD(), ratio=0.5)", "Noise(inner=FedSGD(), std=0.5)"],
        ["FedAvg(epochs=2, lr=0.1)", "FedAvg(epochs=3, lr=0.2)"],
        ["FedSGD()", "FedSGD(mode='train')"],
        ["not an expression", "((((", "f(1)"],
        ["f(" * 3000 + ")" * 3000, "f(" + "-" * 3000 + "1)"],
    ],
)
def test_other_differences_make_none(texts: list[str]) -> None:
    assert expressions.families(texts) == []


def test_a_curve_shows_each_value_and_each_attacker(page: str) -> None:
    assert "Prune.ratio" in page
    assert "A, at Prune.ratio = 0.5: 100% recovered. A, at Prune.ratio = 0.9" in page
    assert page.count("<svg") == 2
    assert "B, at Prune.ratio = 0.999: 0% recovered." in page
    names = re.findall(r'\bid="([^"]+)"', page)
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("scores", [{"psnr": [None]}, {"columns_right": [0.5]}, {}])
def test_curves_bear_what_is_missing(scores: dict[str, object], tmp_path: Path) -> None:
    rows = [
        made.row(client=f"Noise(inner=FedSGD(), std={std})", scores=scores, baselines={})
        for std in (0.1, 1.0, 10.0)
    ]
    assert html(rows, tmp_path).count("<svg") == 2


RANKED: dict[str, Any] = {
    "counted": {
        "layers": [
            {"name": "<b>conv1", "unknowns": 768, "count": 700, "confirmed": None, "deficit": -68,
             "network": 758},
        ],
        "tier": "deficient", "meaning": "directions stay open.", "advice": ["Widen conv1."],
    },
    "measured": {
        "inputs": 768, "directions": 4, "rank": 3, "error": None, "noise": 1e-3,
        "singular_values": [2.0, 1.0, 0.5, 0.0], "hidden_below": 0.1,
        "layers": {"<i>first": [1.0, 0.5, 0.0, 0.0], "last": [1.7, 0.9, 0.5]},
    },
}  # fmt: skip


def test_a_count_beside_the_rows_has_a_section_with_a_line_for_each_layer(tmp_path: Path) -> None:
    (tmp_path / "rank.json").write_text(json.dumps(RANKED))
    made = html([], tmp_path)
    assert 'href="#equations"' in made
    wanted = ["&lt;b&gt;conv1", "Deficient: directions", "tells 3 apart", "alone tells"]
    for text in (*wanted, "&lt;i&gt;first", "2 directions", "3 directions"):
        assert text in made
    assert "<b>conv1" not in made
    drawn = made[made.index('id="equations"') :]
    assert drawn.count("<svg") == 1
    assert "NaN" not in drawn


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"counted": 3, "measured": null}'])
def test_a_damaged_count_is_told_with_the_remedy(text: str, tmp_path: Path) -> None:
    (tmp_path / "rank.json").write_text(text)
    with pytest.raises(InvalidInput, match="seepage rank --out"):
        html([], tmp_path)


def test_clients_are_explained_in_the_order_things_happen() -> None:
    steps = words.client("Noise(inner=Clip(inner=FedAvg(epochs=2), norm=1.0), std=0.1)")
    assert [step.split()[1] for step in steps] == ["trains", "shortens", "adds"]
    assert "2 times" in steps[0]
    assert words.client("FedAvg(inner=FedSGD(mode='train'))")[0].startswith("It shares the stat")
    assert words.client("Prune(inner=FedSGD())")[1].startswith("It sets the 90 % smallest")
    assert words.client("Mystery(inner=FedSGD(), power=3)")[1].endswith("Mystery with power = 3.")
    assert words.client("no (expression") == ["It then applies no (expression."]


def test_every_client_defense_and_attack_of_the_package_is_explained() -> None:
    import seepage.attacks
    import seepage.clients
    import seepage.defenses

    for home in (seepage.clients, seepage.defenses, seepage.attacks):
        kinds = [name for name in home.__all__ if isinstance(getattr(home, name), type)]
        assert not [name for name in kinds if name not in sentences.EXPLAINED]


def test_defaults_of_a_setting_are_words_too() -> None:
    for name in ("Soteria", "MixUp", "InstaHide", "Percentile", "SVT", "Quantize", "Dropout"):
        said = words.client(f"{name}(inner=FedSGD())")[1]
        assert "unknown" not in said
        assert "None" not in said
    assert "layer fc" in words.client("Soteria(inner=FedSGD(), layer='fc')")[1]


def test_attacks_that_hold_data_are_explained_and_shown_without_a_digest() -> None:
    text = "Imprint(bins=64, public=tensor(64x3x32x32, float32, 6a7629144d5d))"
    assert words.attack(text) == sentences.ATTACKS["Imprint"]
    assert words.label(text) == "Imprint(bins=64, public=tensor(64x3x32x32))"
    searched = words.attack("Restarts(inner=Invert(priors=(TV(),)), n=8)")
    assert searched.startswith(sentences.ATTACKS["Restarts"])
    assert sentences.ATTACKS["Invert"] in searched


def test_hostile_words_from_every_field_are_escaped(tmp_path: Path) -> None:
    fields = ("client", "attack", "believed", "name", "note", "batch", "seed", "version")
    changed = dict.fromkeys(fields, HOSTILE)
    named = {HOSTILE: {"psnr": [11.0, 12.5], "recovered": [False, False]}}
    rows = [
        made.row(**changed, tell=[HOSTILE], baselines=named, artefact=HOSTILE, malicious=True),
        made.row(**changed, scores={HOSTILE: [0.5, 0.1]}, form={"kind": HOSTILE}),
        made.row(client=f"Clip(inner=FedSGD(), norm='{HOSTILE}')"),
        made.row(client="Noise(inner=FedSGD(), std=1)"),
        made.row(client="Noise(inner=FedSGD(), std=2)", attack=HOSTILE),
        made.failed(client=HOSTILE, error=HOSTILE),
    ]
    page = html(rows, tmp_path)
    assert page.count("<script") == 1
    assert "<img" not in page
    assert "{{ 7*7 }}" in page
    assert "&lt;script&gt;" in page
    assert "alert(1)" in str(Report(rows, tmp_path))


def test_hostile_words_inside_artefacts_are_escaped(tmp_path: Path) -> None:
    from seepage.forms import Column, Table, Tokens

    table = Table((Column(HOSTILE, ("no", HOSTILE)), Column("age")), classes=2)
    people = torch.tensor([[0.0, 1.0, 0.5]])
    notes = Tokens(2, 2, pad=0, words=("", HOSTILE))
    said = torch.tensor([[1, 1]])
    rows = [
        made.trial(tmp_path, table, people, people),
        made.trial(tmp_path, notes, said, said, attack="TokenSpan()"),
    ]
    page = html(rows, tmp_path)
    assert page.count("<script") == 1
    assert page.count("&lt;script&gt;alert(1)") >= 4


def test_the_page_asks_the_network_for_nothing(page: str) -> None:
    addresses = re.findall(r"""(?:src|href)=["']?([^"'> ]+)""", page)
    assert {a[:1] if a.startswith("#") else a.split(",")[0] for a in addresses} <= {
        "#",
        "data:",
        "data:image/png;base64",
    }
    # The names of XML's vocabularies are names, and nothing fetches them.
    links = set(re.findall(r"https?://[\w./]+", page))
    assert links <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "@import" not in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def test_pictures_stand_beside_what_is_known_of_them(page: str) -> None:
    assert 'alt="Original image 1 of 8"' in page
    assert re.search(r'alt="Reconstruction of image \d of 8, 130.4 dB, recovered"', page)
    for part in (
        "over 60 dB",
        "guess 15.4 dB",
        "random 10.8 dB (0 of 8)",
        "the attacker holds a certificate",
        "chance 19 %",
    ):
        assert part in page
    assert "malicious server" in page.lower()
    assert "are not shown: the best reconstructions come first" in page


def test_the_attacker_who_knows_the_client_stands_first(tmp_path: Path) -> None:
    prune = "Prune(inner=FedSGD())"
    naive = made.row(client=prune, recovered=[True, True])
    page = html([naive, made.row(client=prune, believed=prune)], tmp_path)
    found = re.findall(r"<h4>\s*(.*?)\s*(?::|</h4>)", page)
    assert found == ["Honest server, adaptive", "Honest server, naive"]


def test_tables_and_sentences_are_readable_with_right_cells_marked(tmp_path: Path) -> None:
    page = html(made.mixed(tmp_path), tmp_path)
    assert re.search(r'<td>age</td><td>46</td><td class="right">46</td>', page)
    assert re.search(r'<td>smokes</td><td>no</td><td class="wrong">yes</td>', page)
    assert '<span>monday</span><span class="right">monday</span>' in page
    assert '<span>pain</span><span class="wrong">the</span>' in page
    assert "<img" not in page


@pytest.mark.parametrize(
    "damage",
    [
        {"artefact": "../outside.safetensors"},
        {"artefact": "/etc/passwd"},
        {"artefact": "artefacts/none.safetensors"},
        {"artefact": None},
        {"artefact": "artefacts/\x00"},
        {"form": {"kind": "Images", "shape": [3, 8, 8], "classes": 2}},
        {"form": None},
    ],
)
def test_an_artefact_that_cannot_be_used_is_told_and_no_more(
    damage: dict[str, object], tmp_path: Path
) -> None:
    folder = tmp_path / "store"
    truth = made.photos(2)
    row = made.trial(folder, made.PHOTOS, truth, truth)
    shutil.copy(folder / str(row["artefact"]), tmp_path / "outside.safetensors")
    page = html([row | damage], folder)
    assert "The examples cannot be shown" in page
    assert "<img" not in page


def test_a_damaged_artefact_is_told(tmp_path: Path) -> None:
    truth = made.photos(2)
    row = made.trial(tmp_path, made.PHOTOS, truth, truth)
    path = tmp_path / str(row["artefact"])
    whole = path.read_bytes()
    for damaged in (b"", whole[:-40_000], b"\xff" * 200):
        path.write_bytes(damaged)
        assert "the artefact is damaged" in html([row], tmp_path)


def test_unmatched_truths_have_no_answer(tmp_path: Path) -> None:
    truth = made.photos(2)
    row = made.trial(tmp_path, made.PHOTOS, truth, truth)
    page = html([row | {"shown": [None, 0]}], tmp_path)
    assert page.count('<div class="nothing">no answer</div>') == 1
    assert html([row | {"shown": [7, "a"]}], tmp_path).count('class="nothing"') == 2


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (2, 300, 200)])
def test_images_of_any_channels_and_values_become_pictures(
    shape: tuple[int, int, int], tmp_path: Path
) -> None:
    truth = torch.rand(2, *shape)
    answer = truth.clone()
    answer[0, 0, 0, 0] = float("nan")
    row = made.trial(tmp_path, Images(shape, classes=2), truth, truth)
    files.write(tmp_path / row["artefact"], {"truth/x": truth, "answer/x": answer}, {})
    page = html([row], tmp_path)
    assert page.count("data:image/png;base64") >= 4


@pytest.mark.parametrize(
    "damage",
    [
        {"scores": None},
        {"scores": {"psnr": "high"}},
        {"recovered": None, "n": None},
        {"recovered": [1, "yes"], "residual": "none"},
        {"baselines": [1, 2], "labels": 3},
        {"tell": "n", "identified": 7, "shown": {}},
        {"client": None, "attack": 5, "believed": ["x"]},
        {"scores": {"psnr": [1e400, True]}, "seconds": "long"},
        {"n": 10**12, "artefact": "artefacts/a.safetensors"},
        {"n": -3, "parameters": -1, "malicious": "yes"},
    ],
)
def test_damaged_rows_are_reported_as_far_as_they_go(
    damage: dict[str, object], tmp_path: Path
) -> None:
    report = Report([made.row() | damage, {}, made.row()], tmp_path)
    assert str(report)
    assert json.loads(report.to_json())["trials"]["done"] == 2
    assert "<html" in html(report.rows, tmp_path)


def test_ten_thousand_rows_stay_small(tmp_path: Path) -> None:
    truth = torch.rand(8, 3, 224, 224)
    form = {"form": form_to(Images((3, 224, 224), classes=10))}
    files.write(
        tmp_path / "artefacts/a.safetensors", {"truth/x": truth, "answer/x": truth.clone()}, {}
    )
    shared = form | {"n": 8, "recovered": [True] * 8, "artefact": "artefacts/a.safetensors"}
    rows = [
        made.row(
            client=f"Prune(inner=FedSGD(), ratio={i % 500 / 500})",
            believed="FedSGD()" if i % 2 else f"Prune(inner=FedSGD(), ratio={i % 500 / 500})",
            attack=f"Invert(steps={i % 7})",
            seed=i,
            shown=list(range(8)),
            **shared,
        )
        for i in range(10_000)
    ]
    path = Report(rows, tmp_path).save(tmp_path / "page.html")
    page = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 5_000_000
    assert len(without_pictures(page)) < 1_000_000
    assert "galleries are not shown: the worst come first" in page
    assert "setups are not shown" in page
    assert "440 clients are not shown" in page


def test_long_words_and_wide_examples_stay_small(tmp_path: Path) -> None:
    from seepage.forms import Column, Table, Tokens

    long = "x" * 100_000
    wide = Table(tuple(Column(f"{long}{i}") for i in range(200)), classes=2)
    notes = Tokens(600, 3, pad=0, words=("", long, long))
    people, said = torch.rand(8, 200), torch.randint(1, 3, (8, 600))
    rows = [
        made.trial(
            tmp_path, form, x, x, client=f"{long}({i})", attack=f"{long}({i % 2})", note=long
        )
        for form, x in ((wide, people), (notes, said))
        for i in range(20)
    ]
    rows += [made.failed(client=f"{i}{long}", error=long) for i in range(60)]
    path = Report(rows, tmp_path).save(tmp_path / "page.html")
    assert path.stat().st_size < 5_000_000
    assert "152 columns not shown." in path.read_text(encoding="utf-8")
    assert "552 words not shown." in path.read_text(encoding="utf-8")


def test_saving_where_no_file_can_be_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="Choose another path"):
        Report([], tmp_path).save(tmp_path / "file" / "report.html")


def test_the_report_runs_nothing_and_draws_nothing_at_random(audited: Report) -> None:
    state = torch.random.get_rng_state()
    before = dict.fromkeys(p.name for p in Path(audited.folder).rglob("*"))
    assert str(audited) == str(Report(audited.rows, audited.folder))
    assert torch.equal(state, torch.random.get_rng_state())
    assert before == dict.fromkeys(p.name for p in Path(audited.folder).rglob("*"))


def test_rows_become_results(tmp_path: Path) -> None:
    (result,) = results([made.row(), made.failed()])
    assert (result.hits, result.share, result.best) == (1, 0.5, 41.5)
    assert result.over(30) == 1
    assert result.adaptive


def ceiling(of: str, found: float | None, limit: float | None, **more: object) -> dict[str, object]:
    about = {"label": "certified", "unit": "", "assumptions": ["one record"], "interval": None}
    return {"of": of, "found": found, "limit": limit, **about, **more}


NOISY = "DPSGD(norm=1.0, multiplier=1.0)"


def noisy(*ceilings: object, **changed: object) -> dict[str, object]:
    defaults = {"client": NOISY, "believed": NOISY, "recovered": [False, False]}
    return made.row(**(defaults | changed), ceilings=list(ceilings))


def test_the_verdict_has_two_sides_where_a_client_adds_noise(tmp_path: Path) -> None:
    both = ceiling("records", 0, 0.31), ceiling("pixels", 9.0, 14.3), ceiling("naming", None, 0.09)
    report = Report([noisy(*both), made.row(ceilings=[])], tmp_path)
    for part in (
        "at most 0.31 of 2 recovered on average (proven; found 0 of 2, certified 0 of 2)",
        "a mean error no better than 14.3 dB (proven; found 9.0 dB)",
        "with a chance of at most 0.09 (proven; not tried)",
        "Assumed: one record.",
        "Nothing limits what an attacker may recover from FedSGD(): no noise is added",
    ):
        assert part in report.verdict, part
    assert limits.brief(Group(tuple(report.results[:1]))) == "0.31 of 2, 14.3 dB"
    page = html(report.rows, tmp_path)
    assert "Found, and what no attacker can exceed" in page
    assert page.count("14.3 dB") >= 2
    lines = {one["client"]: one["ceilings"] for one in json.loads(report.to_json())["clients"]}
    assert [line["of"] for line in lines[NOISY]] == ["records", "pixels", "naming"]
    assert lines["FedSGD()"][0]["ceiling"] == "no ceiling"


def test_a_ceiling_that_was_passed_is_withdrawn(tmp_path: Path) -> None:
    scores = {"psnr": [41.0, 41.2, 41.1, 41.3]}
    rows = [
        noisy(
            ceiling("records", 4, 0.1),
            ceiling("pixels", 41.1, 14.3),
            recovered=[True] * 4,
            scores=scores,
            n=4,
        )
    ]
    verdict = Report(rows, tmp_path).verdict
    assert "The ceiling of 0.1 of 4 was passed (4 of 4) and is withdrawn" in verdict
    assert "no better than" not in verdict
    # One example may lie above a limit of the mean.
    lucky = noisy(ceiling("pixels", 15.0, 14.3), n=1, scores={"psnr": [15.0]}, recovered=[False])
    said = Report([lucky], tmp_path).verdict
    assert "no better than 14.3 dB (proven; found 15.0 dB)" in said
    assert "These few examples lie above it" in said


def test_a_ceiling_that_limits_nothing_is_none(tmp_path: Path) -> None:
    weak = noisy(ceiling("records", 0, 2.0), ceiling("naming", None, 1.0))
    said = Report([weak], tmp_path).verdict
    assert f"from {NOISY}: the noise is too weak for any limit." in said
    some = noisy(ceiling("records", 0, 2.0), ceiling("pixels", 9.0, 43.0))
    said = Report([some], tmp_path).verdict
    assert "a mean error no better than 43.0 dB" in said
    assert "recovered on average" not in said


def test_noise_without_a_ceiling_says_why(tmp_path: Path) -> None:
    why = ceiling("pixels", 9.0, None, label="none", assumptions=["the noise grows"])
    assert "from " + NOISY + ": the noise grows." in Report([noisy(why)], tmp_path).verdict


@pytest.mark.parametrize(
    "given", [None, 3, "x", [3], [{}], [{"of": "records", "limit": "x", "assumptions": 3}]]
)
def test_rows_without_ceilings_are_reported_as_before(tmp_path: Path, given: object) -> None:
    row = noisy() | {"ceilings": given}
    report = Report([row], tmp_path)
    assert "no better than" not in report.verdict
    assert html([row], tmp_path)
    old = {name: field for name, field in row.items() if name != "ceilings"}
    assert "unknown" in str(Report([old], tmp_path))
    assert "limits" not in Report([old], tmp_path).verdict
