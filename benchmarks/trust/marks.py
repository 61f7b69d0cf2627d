"""A plugin of pytest: what a marked test is about goes into the report, as a property called ``about``."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Note ``trial NAME``, ``audit ROW`` and ``advice``."""
    for item in items:
        for kind in ("trial", "audit"):
            item.user_properties += [("about", f"{kind} {name}") for m in item.iter_markers(kind) for name in m.args]
        if item.get_closest_marker("advice"):
            item.user_properties.append(("about", "advice"))
