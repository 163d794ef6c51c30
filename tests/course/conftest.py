"""All chapters are imported, so that the checks of their exercises are registered."""

import importlib
import pkgutil

from hb.course import chapters

for chapter in pkgutil.iter_modules(chapters.__path__):
    importlib.import_module(f"{chapters.__name__}.{chapter.name}")
