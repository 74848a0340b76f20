"""Finding a name that a user wrote in another way, or mistyped."""

import difflib
from collections.abc import Iterable


def simplify(name: str) -> str:
    """`name` in lower case without underscores and hyphens, for comparison."""
    return name.lower().replace("_", "").replace("-", "")


def nearest(name: str, known: Iterable[str], number: int = 3) -> list[str]:
    """The known names that are most like `name`, best first; none if none is like it.

    >>> nearest("ConvFormerS81", ["CAFormerS18", "ConvFormerS18", "fold"], 1)
    ['ConvFormerS18']
    """
    simple = {simplify(candidate): candidate for candidate in known}
    near = difflib.get_close_matches(simplify(name), simple, n=number, cutoff=0.6)
    return [simple[match] for match in near]


def question(name: str, known: Iterable[str]) -> str:
    """`" Did you mean 'a' or 'b'?"`, to follow a sentence; empty if nothing is near."""
    near = [repr(candidate) for candidate in nearest(name, known)]
    return f" Did you mean {' or '.join(near)}?" if near else ""


def counted(number: int, noun: str) -> str:
    """`"1 image"`, `"2,000 images"`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def find_model_name(name: str, known: Iterable[str]) -> str:
    """The known model that is meant, upper and lower case and underscores ignored.

    Raises:
        ValueError: if there is none; the message offers the nearest names.
    """
    names = list(known)
    simple = {simplify(each): each for each in names}
    if simplify(name) in simple:
        return simple[simplify(name)]
    offer = nearest(name, names) or names
    raise ValueError(f"Unknown model: expected one like {offer}. Received: {name!r}")
