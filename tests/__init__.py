"""The tests: folders as in the package, and what several files need in `helpers`."""

import pytest

pytest.register_assert_rewrite("tests.helpers")  # so that an assertion there says as much as one in a test
