"""transformers, sentence-transformers, datasets and pandas draw on a swarm and compute what a local folder gives.

What they run are the examples of the documents.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.clients.conftest import SCRIPTS, MakeClient, Swarm
from tests.clients.environments import python_of

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
ENVIRONMENT = "hub-2"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    subprocess.run([python_of(ENVIRONMENT), SCRIPTS / "make_models.py", root], check=True, timeout=200)
    return root


@pytest.mark.parametrize("kind", ["single", "sharded"])
def test_transformers_compute_the_same_as_from_a_local_folder(
    client: MakeClient, swarm_of_daemons: Swarm, made: Path, kind: str
) -> None:
    shards = len(list((made / kind).glob("*.safetensors")))
    assert (shards > 2) == (kind == "sharded")
    repo = swarm_of_daemons.publish(made / kind)
    said = client(ENVIRONMENT).run(
        EXAMPLES / "transformers_model.py", repo, "the model came from peers", "--same-as", made / kind
    )
    assert "the same as from the local folder" in said


def test_real_sentence_embeddings_are_the_same_as_from_a_local_folder(
    client: MakeClient,
    swarm_of_daemons: Swarm,
    real_weights: Path,
) -> None:
    repo = swarm_of_daemons.publish(real_weights)
    said = client(ENVIRONMENT).run(EXAMPLES / "sentence_embeddings.py", repo, "--same-as", real_weights)
    assert "the same as from the local folder" in said


def test_a_dataset_is_streamed_loaded_and_read_as_a_data_frame(
    client: MakeClient, swarm_of_daemons: Swarm, made: Path
) -> None:
    repo = swarm_of_daemons.publish(made / "dataset")
    said = client(ENVIRONMENT).run(EXAMPLES / "dataset_streaming.py", repo, "data/train.parquet")
    assert "5000 rows, 5000 in the data frame, 5000 streamed" in said


def test_a_model_in_the_cache_loads_offline_and_without_a_daemon(
    client: MakeClient, swarm_of_daemons: Swarm, made: Path, tmp_path: Path
) -> None:
    repo = swarm_of_daemons.publish(made / "sharded")
    user = client(ENVIRONMENT)
    done = subprocess.run(
        swarm_of_daemons.command("fetch", repo.removeprefix("p2pmodel/"), "--to-hf-cache", "--json"),
        env={**user.environment(), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert str(user.home) in json.loads(done.stdout)["path"]
    user.variables = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9/hf"}
    said = user.run(
        EXAMPLES / "transformers_model.py", repo, "some of them were far away", "--same-as", made / "sharded"
    )
    assert "the same as from the local folder" in said
