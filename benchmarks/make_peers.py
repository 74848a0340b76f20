"""Makes the environment of the models we are compared with: torch and timm.

    python benchmarks/make_peers.py            # or: make peers
    python -m benchmarks CAFormerS18           # finds .venv-peers by itself

It stays apart from `.venv`: no test needs it, and nothing in it can change what the
package is tested with. torch.compile needs a C++ compiler besides (gcc on Linux).
"""

import argparse
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
DEFAULT = HERE.parent / ".venv-peers"
TIMM = "timm==1.0.31"
TORCHVISION = "torchvision==0.28.0"
# timm posterizes to 0 bits, which newer ones refuse.
PILLOW = "pillow<13"

# timm imports torchvision for its data pipelines and for taking features out of a
# model, also where only a model is made. These are the names it asks for at import;
# none of them is part of a model, and using one fails.
STUB = '''\
"""Stands in for torchvision, which timm imports but its models do not use.

Made by keras-metaformer's benchmarks/make_peers.py, which says why.
"""

import importlib.abc
import importlib.machinery
import sys
import types

__version__ = "0.0.0"


class _Names(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return f"{cls.__name__}.{name}"  # a member of an enumeration


class _Missing(metaclass=_Names):
    def __init__(self, *args, **kwargs):
        raise ImportError("torchvision is a stand-in in this environment")


class _Module(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Names(name, (_Missing,), {})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.startswith("torchvision."):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return _Module(spec.name)

    def exec_module(self, module):
        pass


sys.meta_path.append(_Finder())
'''

CHECK = """
import timm, torch
model = timm.create_model("caformer_s18", num_classes=10).eval()
with torch.inference_mode():
    print("timm", timm.__version__, "torch", torch.__version__,
          tuple(model(torch.zeros(1, 3, 64, 64)).shape))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT)
    parser.add_argument(
        "--torchvision",
        action="store_true",
        help="with torchvision and not a stand-in, for benchmarks.input_pipeline",
    )
    options = parser.parse_args()
    folder = options.folder.resolve()
    if folder == Path(sys.prefix).resolve():
        raise SystemExit(
            "The peers go into an environment of their own, not into the one that "
            f"runs this script. Received: folder={str(folder)!r}"
        )
    venv.create(folder, with_pip=True, clear=True)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"

    def run(*arguments: str) -> str:
        finished = subprocess.run(
            [str(python), *arguments], text=True, stdout=subprocess.PIPE
        )
        if finished.returncode:
            raise SystemExit(f"Failed, see above: python {' '.join(arguments)}")
        return finished.stdout

    run("-m", "pip", "install", "--quiet", "--requirement", str(HERE / "peers.txt"))
    run("-m", "pip", "install", "--quiet", "--no-deps", TIMM)
    if options.torchvision:
        run("-m", "pip", "install", "--quiet", "--no-deps", TORCHVISION)
        run("-m", "pip", "install", "--quiet", "--no-deps", PILLOW)
        return
    packages = run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    stub = Path(packages.strip()) / "torchvision"
    stub.mkdir()
    (stub / "__init__.py").write_text(STUB, encoding="utf-8")
    print(run("-c", CHECK).strip())


if __name__ == "__main__":
    main()
