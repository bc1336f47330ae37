"""One file a method. Importing the package registers them all: a new file needs no other line anywhere."""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
