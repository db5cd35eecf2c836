"""torch, pandas, pyarrow and datasets read models out of a swarm, and have what they have from a local folder."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.clients.conftest import SCRIPTS, MakeClient, Swarm
from tests.clients.environments import python_of

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]
ENVIRONMENT = "loading"


def test_tensors_modules_and_tables_are_those_of_a_local_folder(
    client: MakeClient, swarm_of_daemons: Swarm, tmp_path: Path
) -> None:
    reader = client(ENVIRONMENT)
    subprocess.run(
        [python_of(ENVIRONMENT), SCRIPTS / "load_tensors.py", "make", tmp_path / "m"], check=True, timeout=200
    )
    model = swarm_of_daemons.publish(tmp_path / "m").removeprefix("p2pmodel/")
    data_dir = str(swarm_of_daemons.gateway.data_dir)
    told = reader.told("load_tensors.py", "check", model, tmp_path / "m", P2PMODEL_DATA_DIR=data_dir)
    assert told["held"] > 20
