"""What a revision means, of all that a publisher has said of a name."""

import pytest

from p2pmodel.gateway.model_names import commit_of, meant
from p2pmodel.model import Digest, ModelId, SecretKey, Statement, sign_statement

KEY = SecretKey.from_seed(bytes(32))
OLD, TAGGED, NEW = (ModelId(Digest.of(name)) for name in (b"old", b"tagged", b"new"))


def said(*statements):
    return [sign_statement(Statement(model, at, "tiny", revision), KEY) for model, at, revision in statements]


SAID = said((TAGGED, 2, "v1"), (OLD, 1, ""), (NEW, 3, ""))


@pytest.mark.parametrize(
    ("revision", "model"),
    [("main", NEW), ("v1", TAGGED), (commit_of(OLD), OLD), (commit_of(TAGGED), TAGGED), ("v2", None), ("f" * 40, None)],
)
def test_a_revision_is_what_was_said_of_it_and_a_commit_is_the_model_itself(revision, model):
    found = meant(SAID, revision)
    assert (found.model_id if found else None) == model


def test_main_is_what_was_called_so_last_where_somebody_called_anything_so():
    snapshots = said((OLD, 1, "main"), (NEW, 2, "0" * 40))
    assert meant(snapshots, "main").model_id == OLD
    assert meant(snapshots, "0" * 40).model_id == NEW


def test_when_it_was_said_is_when_the_repository_was_changed():
    assert meant(SAID, "v1").said_at == 2
