"""Real sets where they are present, and sentences of our own in their style where they are not."""

import sys
import types

import pytest

from seepage import InvalidInput
from seepage.integrations.public_sets import public_set, short


def present(monkeypatch: pytest.MonkeyPatch, load: object) -> None:
    module = types.ModuleType("datasets")
    module.load_dataset = load
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_a_real_set_is_used_where_it_is_present(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(*names: object, split: str) -> list[dict[str, object]]:
        asked.append((*names, split))
        return [{"sentence": " a fine film ", "label": 1}, {"sentence": "dull " * 9, "label": 0}]

    present(monkeypatch, load)
    assert public_set("sst2")[0] == ("a fine film", 1)
    assert asked == [("nyu-mll/glue", "sst2", "validation")]
    assert short("sst2", 1, words=4) == ([("a fine film", 1)], "sst2, validation split")


def test_a_set_that_is_not_cached_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*names: object, split: str) -> list[dict[str, object]]:
        raise ConnectionError("offline mode is enabled")

    present(monkeypatch, load)
    with pytest.raises(InvalidInput, match="not in the local cache"):
        public_set("rotten_tomatoes")


def test_without_the_package_our_own_sentences_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InvalidInput, match="pip install datasets"):
        public_set("cola")
    for style in ("cola", "sst2", "rotten_tomatoes"):
        lines, source = short(style, 3, words=8)
        assert len({text for text, _ in lines}) == 3
        assert source == f"written here in the style of {style}"
    with pytest.raises(InvalidInput, match="has 0 sentences of at most 1 words"):
        short("cola", 3, words=1)


def test_an_unknown_set_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'mnli' is not known"):
        public_set("mnli")
