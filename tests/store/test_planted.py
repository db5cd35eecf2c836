"""The list of planted bugs stays true: each line that it breaks is there, once."""

from __future__ import annotations

import pytest
from planted import BUGS, REPOSITORY, path_of


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.what)
def test_the_line_that_a_planted_bug_breaks_is_there_once(bug):
    assert (REPOSITORY / path_of(bug)).read_text().count(bug.right) == 1
    assert (REPOSITORY / bug.caught_by[0]).exists()
