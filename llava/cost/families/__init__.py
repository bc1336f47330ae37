"""One file a family of models. Importing the package registers them all: a new file needs no other line anywhere."""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__, f"{__name__}."):
    import_module(_module.name)
