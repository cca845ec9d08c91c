"""Packages that take seconds to import, because they build some thousand models: imported where one is first used.

Every process of a test run imports every test file, and few of them run the tests of such a package.
"""

from __future__ import annotations

import gc
import importlib
import sys
from typing import TYPE_CHECKING, Any

__all__ = ["anthropic", "openai"]


class Late:
    """Stands for a module: `openai = Late("openai")`."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # pytest looks whether it is a test
            raise AttributeError(attribute)
        if self._name not in sys.modules:
            importlib.import_module(self._name)
            gc.freeze()  # as what is imported before the first test (see tests/conftest.py)
        return getattr(sys.modules[self._name], attribute)


if TYPE_CHECKING:
    import anthropic
    import openai
else:
    anthropic = Late("anthropic")
    openai = Late("openai")
