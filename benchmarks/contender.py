"""What is compared: contenders, and the jobs they are given."""

import dataclasses
import re
from collections.abc import Iterable, Sequence

BACKENDS = ("tensorflow", "jax", "torch")
MODES = ("inference", "training")
DEVICES = ("cpu", "gpu")

#: Number formats by the names of Keras' dtype policies, and what computes in them.
#: "mixed": weights in float32 (autocast in timm); else the whole model.
DTYPES = {
    "float32": "float32",
    "mixed_bfloat16": "bfloat16",
    "mixed_float16": "float16",
    "bfloat16": "bfloat16",
    "float16": "float16",
}


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of contender.

    Attributes:
        options: what may be added to its name with `+`, and the backends it is for.
        backends: what it runs on.
        peer: whether it runs in the peers' interpreter.
    """

    options: dict[str, tuple[str, ...]]
    backends: tuple[str, ...] = BACKENDS
    peer: bool = False


_COMPILERS = {"xla": ("tensorflow",), "compile": ("torch",)}
KINDS = {
    # This package's model.
    "ours": Kind({"folded": BACKENDS, "no_fast_paths": BACKENDS, **_COMPILERS}),
    # The same of stock Keras layers only.
    "stock": Kind(_COMPILERS),
    # Keras' own model of the same size class, whatever the model.
    "convnext": Kind(_COMPILERS),
    "timm": Kind(
        {"compile": ("torch",), "channels_last": ("torch",)}, ("torch",), peer=True
    ),
    # The matrix products of the model alone.
    "roofline": Kind({}),
}
#: What is compared where nothing is asked for.
DEFAULT_CONTENDERS = (
    "ours",
    "ours+folded",
    "stock",
    "timm",
    "timm+compile",
    "timm+compile+channels_last",
    "convnext",
    "roofline",
)


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to compute a model.

    Attributes:
        kind: a key of `KINDS`.
        backend: of `BACKENDS`.
        options: keys of the kind's options, such as `("folded",)`.
    """

    kind: str
    backend: str
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Such as `"ours+folded"`, the backend left out."""
        return "+".join((self.kind, *self.options))

    @property
    def label(self) -> str:
        """Such as `"ours+folded@jax"`; without backend where there is only one."""
        if KINDS[self.kind].backends == (self.backend,):
            return self.name
        return f"{self.name}@{self.backend}"

    def takes_part(self, mode: str) -> bool:
        """Whether it can be measured in that mode: folded models are for inference."""
        return mode == "inference" or "folded" not in self.options


def check(name: str, values: Iterable[str], known: Iterable[str]) -> None:
    """Raises a ValueError unless all values are known."""
    for value in values:
        if value not in known:
            raise ValueError(
                f"`{name}` must be one of {', '.join(known)}. "
                f"Received: {name}={value!r}"
            )


def parse_contender(text: str, backends: Sequence[str]) -> list[Contender]:
    """The contenders that a name stands for: one per backend, where none is given.

    Args:
        text: `KIND[+OPTION...][@BACKEND]`, such as `"ours+folded@jax"`.
        backends: where the name says nothing; a kind that runs on one backend only,
            such as `timm`, needs none.

    Raises:
        ValueError: if the name makes no sense, or none of `backends` can run it.
    """
    received = f"Received: contender={text!r}"
    match = re.fullmatch(r"([a-z]+)((?:\+\w+)*)(?:@(\w+))?", text)
    if match is None:
        raise ValueError(
            "A contender is written KIND[+OPTION...][@BACKEND], such as "
            f"ours+folded@jax. {received}"
        )
    name, added, backend = match.groups()
    if name not in KINDS:
        raise ValueError(
            f"A contender must be one of {', '.join(KINDS)}, with options added by +. "
            f"{received}"
        )
    kind = KINDS[name]
    options = tuple(added.split("+")[1:])
    possible = list(kind.backends)
    for option in options:
        if option not in kind.options or options.count(option) > 1:
            offer = ", ".join(kind.options) or "none"
            raise ValueError(f"The options of {name} are: {offer}. {received}")
        possible = [each for each in possible if each in kind.options[option]]
    if backend is not None:
        wanted = [backend]
    else:
        wanted = list(kind.backends if len(kind.backends) == 1 else backends)
    found = [each for each in wanted if each in possible]
    if not found:
        raise ValueError(
            f"{name}{added} runs on {' or '.join(possible) or 'no backend'}. "
            f"{received}, backends={wanted}"
        )
    return [Contender(name, each, options) for each in found]


@dataclasses.dataclass(frozen=True)
class Case:
    """What a comparison is about: all its contenders do the same work.

    Attributes:
        model: a constructor's name, such as `"CAFormerS18"`.
        mode: of `MODES`.
        batch: int. Images of one call.
        dtype: a key of `DTYPES`.
        device: of `DEVICES`.
        resolution: int. Height and width of the images, in pixels.
    """

    model: str
    mode: str
    batch: int
    dtype: str
    device: str
    resolution: int


@dataclasses.dataclass(frozen=True)
class Job:
    """A contender's part in a case, as its worker gets it (as JSON).

    Attributes:
        minimum_seconds: float. A turn repeats its call until about this time is over.
    """

    contender: Contender
    case: Case
    minimum_seconds: float = 0.2

    @property
    def label(self) -> str:
        """That of the contender."""
        return self.contender.label

    @classmethod
    def from_dict(cls, value: dict) -> "Job":
        """From what `dataclasses.asdict` and JSON made of it."""
        contender = value["contender"]
        options = tuple(contender["options"])
        return cls(
            Contender(contender["kind"], contender["backend"], options),
            Case(**value["case"]),
            value["minimum_seconds"],
        )


def unique(items: Iterable) -> list:
    """The items without repetitions, in their order."""
    return list(dict.fromkeys(items))
