"""The page in a real browser: Debian's Chromium, driven by playwright."""

import shutil
from collections.abc import Iterator

import pytest
import report_store as made

from seepage.report import Report

CHROMIUM = shutil.which("chromium")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is not installed: apt-get install chromium"
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
HOSTILE = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 1'>"


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("store")
    rows = (
        made.store(folder)
        + made.mixed(folder)
        + made.noted(folder)
        + [made.row(client=HOSTILE, note=HOSTILE)]
    )
    return Report(rows, folder).save(folder / "report.html").as_uri()


@pytest.fixture
def opened(browser: "playwright.Browser", address: str) -> Iterator["playwright.Page"]:
    page, problems, asked = browser.new_page(), [], []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    yield page
    page.close()
    assert problems == []
    assert [url for url in asked if not url.startswith("data:")] == [address]


def test_hostile_words_do_nothing(opened: "playwright.Page") -> None:
    assert opened.evaluate("window.broken") is None
    assert opened.locator("code", has_text="window.broken").count() > 0


def test_every_image_has_a_text_and_is_drawn(opened: "playwright.Page") -> None:
    images = opened.evaluate(
        "Array.from(document.images, i => [i.alt.trim().length, i.naturalWidth])"
    )
    assert len(images) > 50
    assert all(text > 8 and width > 0 for text, width in images)


def test_the_filter_shows_what_was_asked_for(opened: "playwright.Page") -> None:
    cards = opened.locator("article[data-client]")
    everything = cards.locator("visible=true").count()
    opened.select_option("#filter-attack", label="BiasRatio()")
    assert cards.locator("visible=true").count() == 1
    assert opened.locator("article[data-client] h3:visible").inner_text().startswith("BiasRatio()")
    assert "entries below are shown" in opened.inner_text("#filter-status")
    opened.select_option("#filter-client", label="Prune(FedSGD())")
    assert cards.locator("visible=true").count() == 0
    assert opened.locator("[data-empty]:visible").count() == 3
    opened.click("#filter-clear")
    assert cards.locator("visible=true").count() == everything
    assert opened.locator("[data-empty]:visible").count() == 0


def test_the_filter_works_from_the_keyboard(opened: "playwright.Page") -> None:
    opened.focus("#filter-attack")
    opened.keyboard.type("RGap")
    assert opened.locator("#failed tbody tr:visible").count() == 2
    assert opened.locator("article[data-client]:visible").count() == 0
    opened.keyboard.press("Tab")
    opened.keyboard.press("Enter")
    assert opened.locator("article[data-client]:visible").count() > 5
    assert opened.evaluate("document.activeElement.id") == "filter-client"


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_scrolls_sideways(opened: "playwright.Page", width: int, scheme: str) -> None:
    opened.set_viewport_size({"width": width, "height": 800})
    opened.emulate_media(color_scheme=scheme)
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    beyond = opened.evaluate(
        """Array.from(document.querySelectorAll("main *"))
        .filter(e => !e.closest(".unseen, thead") && e.getBoundingClientRect().right >
                     document.documentElement.clientWidth + 1)
        .map(e => e.outerHTML.slice(0, 80))"""
    )
    assert beyond == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(opened: "playwright.Page", scheme: str) -> None:
    opened.emulate_media(color_scheme=scheme)
    colours = opened.evaluate(
        """(() => { const s = getComputedStyle(document.documentElement);
        const e = document.createElement("i"); document.body.append(e);
        const rgb = n => { e.style.color = s.getPropertyValue(n);
          return getComputedStyle(e).color.match(/\\d+/g).slice(0, 3).map(Number); };
        return Object.fromEntries(["--ground", "--raised", "--alarm-tint", "--ink", "--soft",
          "--accent", "--alarm"].map(n => [n, rgb(n)])); })()"""
    )
    for ground in ("--ground", "--raised"):
        for ink in ("--ink", "--soft", "--accent", "--alarm"):
            assert _contrast(colours[ground], colours[ink]) >= 4.5, (ground, ink)
    assert _contrast(colours["--alarm-tint"], colours["--ink"]) >= 4.5


def test_print_shows_all_but_the_controls(opened: "playwright.Page") -> None:
    opened.emulate_media(media="print")
    assert not opened.is_visible("#filter")
    assert not opened.is_visible("nav")
    assert opened.is_visible("#headline")


def test_headings_and_controls_have_names(opened: "playwright.Page") -> None:
    assert opened.locator("h1").count() == 1
    assert opened.locator("html[lang=en]").count() == 1
    assert opened.get_by_label("Show the client").count() >= 1
    assert opened.evaluate(
        "Array.from(document.querySelectorAll('nav a, .skip'),"
        " a => document.querySelector(a.hash) !== null).every(Boolean)"
    )
    names = opened.evaluate("Array.from(document.querySelectorAll('[id]'), e => e.id)")
    assert len(names) == len(set(names))


def _contrast(one: list[int], other: list[int]) -> float:
    """The contrast ratio of WCAG 2."""

    def light(colour: list[int]) -> float:
        parts = [c / 255 for c in colour]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)
