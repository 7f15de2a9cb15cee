"""Memory that runs out while a page is computed."""

import pytest
from streamlit.testing.v1 import AppTest

from tests.helpers.pages import go


def test_memory_that_runs_out_is_one_message_and_the_next_page_works(
    example: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("pruner.views.blocks.block_table", fails)
        (told,) = go(example, "overview").error
    assert told.value.startswith("Expected enough memory for this model, found too little")
    assert not go(example, "overview").error
