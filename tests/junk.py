"""Random JSON values, for tests of faulty answers and files."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st


def json_values(keys: str) -> st.SearchStrategy[Any]:
    """Any small JSON value, whose objects have some of these keys, which spaces separate."""
    return st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(keys.split()), inner, max_size=5)
        ),
        max_leaves=15,
    )
