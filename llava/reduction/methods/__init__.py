"""One file per method. Importing the package registers them all: a new file needs no other line anywhere."""

from importlib import import_module
from pkgutil import walk_packages

for _module in walk_packages(__path__, f"{__name__}."):
    import_module(_module.name)
