"""Fused models that several files of tests export."""

import pytest

from ..support.export_content import made, source_of


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The fused model of a family."""
    folder, found = tmp_path_factory.mktemp("sources"), {}

    def get(family):
        if family not in found:
            found[family] = source_of(*made(folder, family))
        return found[family]

    return get
