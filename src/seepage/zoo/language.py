"""Short sentences written for this project: reviews, and examples of grammar."""

import re
from typing import Literal

import torch

from seepage.checks import at_least, one_of
from seepage.core import Batch, stream
from seepage.errors import InvalidInput
from seepage.forms import Tokens
from seepage.zoo.bundled import Split
from seepage.zoo.samples import Sample

__all__ = ["STYLES", "Style", "reviews", "sentences", "styled", "texts"]

Style = Literal["cola", "sst2", "rotten_tomatoes"]
STYLES: tuple[Style, ...] = ("cola", "sst2", "rotten_tomatoes")

_APPROVING = """\
A warm little film that trusts its actors.
The second half is even better than the first.
I laughed at the dog, and then I cried at the dog.
Every scene on the boat is a small wonder.
She plays the widow with wit and great patience.
The music lifts the slow parts of the story.
My sister has seen it twice and wants to go again.
It is honest about money, and about love.
The ending surprised me in the best way.
A clever plot, told with a light hand.
He has never been so good in a quiet part.
The pictures of the coast are a joy."""

_DISAPPROVING = """\
The plot is thin and the jokes are thinner.
I left the room before the last song was over.
A long, cold film without a single true word.
Nobody in the story wants anything, and neither did I.
The hero talks too much and does too little.
It borrows the worst parts of two better films.
The children were bored, and so was the dog.
Not even the music can save the second half.
I was sorry for the actors in every scene.
He shouts his part from the first word to the last.
The story ends an hour before the film does.
A dull plot, told twice."""

_WELL_FORMED = """\
The letter that my aunt sent was never opened.
Which of the two boats did they paint?
He was asked to wait, and so he waited.
The more she reads, the less she sleeps.
There seem to be three keys in the drawer.
Neither of the twins has been told.
What the gardener planted was a row of beans.
They let the child carry the lamp.
Had I known, I would have stayed at home.
It was the baker who found the ring.
The soup is too hot to eat.
She gave the boy a map and her sister a coat."""

_ILL_FORMED = """\
The letter that my aunt sent it was never opened.
Which of the two boats did they paint the boat?
He was asked that to wait, and waited so.
The more she reads, she less sleeps.
There seems to being three keys in the drawer.
Neither the twins of has been told.
What did the gardener plant a row of and?
They let the child to carries the lamp.
I had known, would I have stayed at home.
It was the baker found who the ring.
The soup is too hot to eat it the bread.
She gave to the boy a map her sister and a coat."""

_PRAISE = """\
a warm and honest film
full of small wonders
wit and great patience
told with a light hand
never less than kind
the best of the second half
a quiet joy from the first scene
funny and sad by turns"""

_BLAME = """\
too long by an hour
a dull and noisy plot
without a single true word
nobody in it wants anything
borrowed from two better films
cold where it should be warm
the same joke told twice
lost long before the end"""

# The last third of each kind is public.
_KINDS = [
    (text.splitlines(), label)
    for text, label in ((_APPROVING, 1), (_DISAPPROVING, 0), (_WELL_FORMED, 1), (_ILL_FORMED, 0))
]
_PUBLIC = 4


def texts(split: Split = "private") -> list[tuple[str, int]]:
    """The sentences as text, each with its label: 1 approving or well formed, 0 neither.

    >>> texts()[0]
    ('A warm little film that trusts its actors.', 1)
    """
    one_of("texts.split", split, ("private", "public"))
    part = slice(-_PUBLIC, None) if split == "public" else slice(-_PUBLIC)
    return [(line, label) for lines, label in _KINDS for line in lines[part]]


def styled(style: Style) -> list[tuple[str, int]]:
    """Sentences written here in the style of a public set (none is of that set), with labels.

    "cola" are examples of grammar, "sst2" fragments of reviews, "rotten_tomatoes" whole sentences.

    >>> styled("sst2")[0]
    ('a warm and honest film', 1)
    """
    one_of("styled.style", style, STYLES)
    kinds = {
        "cola": (_WELL_FORMED, _ILL_FORMED),
        "sst2": (_PRAISE, _BLAME),
        "rotten_tomatoes": (_APPROVING, _DISAPPROVING),
    }
    good, bad = (text.splitlines() for text in kinds[style])
    return [pair for one, two in zip(good, bad, strict=True) for pair in ((one, 1), (two, 0))]


def sentences(n: int, split: Split = "private", seed: int = 0) -> Sample:
    """Short sentences as words, between a start and an end, padded on the right; 1 is approval.

    32 are private and 16 public; the vocabulary holds the words of both, in alphabetic order.

    >>> batch, form = sentences(4)
    >>> form.show(batch.x[3])
    '[START] nobody in the story wants anything , and neither did i . [END]'
    """
    lines = texts(split)
    if not 1 <= n <= len(lines):
        raise InvalidInput(f"sentences: n={n}, and its {split} split has 1 to {len(lines)}.")
    form = _form()
    numbers = {word: number for number, word in enumerate(form.words)}
    order = torch.randperm(len(lines), generator=stream(seed, f"zoo sentences {split}"))[:n]
    x = torch.zeros(n, form.length, dtype=torch.long)
    for row, place in zip(x, order.tolist(), strict=True):
        spelled = ["[START]", *_words(lines[place][0]), "[END]"]
        row[: len(spelled)] = torch.tensor([numbers[word] for word in spelled])
    return Sample(Batch(x, torch.tensor([lines[place][1] for place in order.tolist()])), form)


_THINGS = ["plot", "music", "cast", "ending", "story", "light", "sound", "script"]
_DEGREES = ["very", "quite", "rather", "truly"]
_GOOD = ["warm", "clever", "honest", "bright", "tender", "lively", "rich", "graceful"]
_BAD = ["thin", "cold", "dull", "loud", "slow", "clumsy", "stale", "confused"]


def reviews(n: int, split: Split = "private", seed: int = 0) -> Sample:
    """Made-up reviews in two clauses, as many as wanted; y is what the last clause says.

    "the plot was not very warm , but the music was rich": each clause has a thing, an opinion, and
    perhaps a "not" or a degree; "and" joins clauses that agree, "but" such that do not. So counting
    words goes wrong now and then. No sentence is in both splits.

    >>> batch, form = reviews(2)
    >>> form.show(batch.x[0])
    'the cast was not clever , and the music was not tender'
    """
    at_least("reviews.n", n, 1)
    one_of("reviews.split", split, ("private", "public"))
    words = ("[PAD]", *sorted({"the", "was", "not", "and", "but", ",", *_THINGS, *_DEGREES}))
    words = (*words, *_GOOD, *_BAD)
    number, rng = {word: i for i, word in enumerate(words)}, stream(seed, f"zoo reviews {split}")
    x, y = torch.zeros(n, 14, dtype=torch.long), torch.zeros(n, dtype=torch.long)
    for row in range(n):
        said, y[row] = _review(rng, split == "public")
        x[row, : len(said)] = torch.tensor([number[word] for word in said])
    return Sample(Batch(x, y), Tokens(14, len(words), pad=0, words=words, classes=2))


def _review(rng: torch.Generator, public: bool) -> tuple[list[str], int]:
    """The words of one review, and whether its last clause approves."""
    (one, first), (two, last) = _clause(rng), _clause(rng)
    if first != last and bool(torch.rand((), generator=rng) < 0.5):
        return _review(rng, public)  # most reviewers are of one mind
    said = [*one, ",", "and" if first == last else "but", *two]
    # Words are spelled the same in every process; their parity decides the split.
    odd = sum(map(ord, "".join(said))) % 2 == 1
    return (said, last) if odd == public else _review(rng, public)


def _clause(rng: torch.Generator) -> tuple[list[str], int]:
    thing, degree, word, good, negated, graded = torch.randint(8, (6,), generator=rng).tolist()
    opinion = (_GOOD if good < 4 else _BAD)[word]
    denied, how = ["not"] if negated < 1 else [], [_DEGREES[degree % 4]] if graded < 3 else []
    return ["the", _THINGS[thing], "was", *denied, *how, opinion], int((good < 4) != (negated < 1))


def _form() -> Tokens:
    every = [_words(line) for lines, _ in _KINDS for line in lines]
    words = ("[PAD]", "[START]", "[END]", *sorted({word for line in every for word in line}))
    length = max(map(len, every)) + 2
    return Tokens(length, len(words), pad=0, start=1, end=2, words=words, classes=2)


def _words(line: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", line.lower())
