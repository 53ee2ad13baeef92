"""One cache of features for the tests of this folder, apart from the user's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SSL_TRANSFER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
