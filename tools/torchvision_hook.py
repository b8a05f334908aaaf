"""Let torchvision be imported beside a CPU build of torch. Run it with the environment's Python.

The package index has torchvision for CUDA only. Beside the CPU build its compiled operators do not
load, and importing it raises ``operator torchvision::nms does not exist``; timm cannot then be
imported, nor many a model of transformers. Declaring the schemas of the two operators that it
expects mends that; what needs the operators themselves (detection) still cannot run.

This writes an import hook into the virtual environment. It acts when torchvision is first imported,
if torch is then a CPU build and torchvision is not; an interpreter that imports no torchvision pays
for one small module.
"""

import sys
import sysconfig
from pathlib import Path

MODULE = "_peftcore_torchvision"

HOOK = '''"""Declare torchvision's operators when it is first imported; see torchvision_hook.py."""

import sys
from importlib.machinery import PathFinder, SourceFileLoader

#: Keeps the declarations; they end with the object.
library = None

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def declare(folder):
    """Declare the operators, unless the compiled ones of this torchvision load."""
    global library
    import torch

    with open(f"{folder}/version.py", encoding="utf-8") as file:
        for_cuda = "+cu" in file.readline()
    if library is None and torch.version.cuda is None and for_cuda:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in SCHEMAS:
            library.define(schema)


class Loader(SourceFileLoader):
    """Loads torchvision after the declaration."""

    def exec_module(self, module):
        declare(module.__path__[0])
        super().exec_module(module)


class Finder:
    """Finds torchvision as it would be found anyway, and no other module."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "torchvision":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec


sys.meta_path.insert(0, Finder)
'''


def install() -> Path:
    """Write the hook into the environment of this Python and return its folder."""
    if sys.prefix == sys.base_prefix:
        sys.exit("torchvision_hook.py: run it with the Python of a virtual environment.")
    folder = Path(sysconfig.get_path("purelib"))
    (folder / f"{MODULE}.py").write_text(HOOK, encoding="utf-8")
    (folder / f"{MODULE}.pth").write_text(f"import {MODULE}\n", encoding="utf-8")
    return folder


if __name__ == "__main__":
    install()
