"""The dashboard as most tests of its pages find it."""

from collections.abc import Iterator

import pytest
from streamlit.testing.v1 import AppTest

from pruner import Recipe, examples
from pruner.dashboard import gathering, jobs
from pruner.dashboard.gathered import Gathered
from tests.helpers.pages import CONSUMERS, UNITS, checked, click, new_app, set_to


@pytest.fixture
def app() -> AppTest:
    return new_app()


@pytest.fixture
def example(app: AppTest) -> AppTest:
    """The dashboard with the grammar example open."""
    return click(app.run(), "open_embedded-reber")


@pytest.fixture
def units(app: AppTest) -> AppTest:
    """The same, with half of its units to be pruned."""
    app.query_params.update(UNITS)
    return checked(app.run())


@pytest.fixture(scope="package")
def gathered() -> Gathered:
    """What the example's inputs show, gathered once for all tests."""
    checkpoint, example = examples.named("embedded-reber").open(), examples.named("embedded-reber")
    recipe = Recipe(criterion="fisher", **CONSUMERS)
    return gathering.gather(checkpoint, example, gathering.Wanted("example"), recipe, lambda *_: None)


@pytest.fixture
def calibrated(example: AppTest, gathered: Gathered) -> AppTest:
    """The grammar example, with its inputs gathered and its consumers named."""
    return set_to(example, gathered=gathered, consumers=["linear.weight"], task="softmax")


@pytest.fixture(autouse=True)
def _nobody_computes_on() -> Iterator[None]:
    """Work that a test began takes the turns of the next one's."""
    yield
    for job in list(jobs._started):
        job.cancel()
