"""What `pruner` exports can be looked up: a docstring with a runnable example of a few lines."""

import doctest
import inspect
import sys

import pytest

import pruner


@pytest.mark.parametrize("name", pruner.__all__)
def test_every_exported_name_has_an_example_that_runs(name: str) -> None:
    thing = getattr(pruner, name)
    module = sys.modules[inspect.unwrap(thing).__module__]
    (found,) = doctest.DocTestFinder(recurse=False).find(thing, name, module)
    assert found.examples, f"{name} has no example"
    assert len(found.examples) <= 8
    results = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(found)
    assert results.failed == 0 and results.attempted == len(found.examples)


@pytest.mark.parametrize("name", pruner.__all__)
def test_every_exported_function_says_what_it_raises(name: str) -> None:
    thing = getattr(pruner, name)
    if inspect.isfunction(thing) or name in ("Recipe", "LSTMSaliencyPruner"):
        text = (thing.__doc__ or "") + "".join(
            method.__doc__ or "" for method in vars(thing).values() if callable(method)
        )
        assert "Raises PrunerError" in text
