"""Several instances on one models directory: killing one costs what it was doing, and no more."""

from pathlib import Path

from app.storage.directory import Storage
from tests import instances
from tests.conftest import litter
from tests.standin import Standin


def test_a_killed_instance_costs_its_own_requests_alone(standin: Standin, tmp_path: Path) -> None:
    found = instances.run(tmp_path, standin.url, kills=2)
    assert set(found.lost_by) <= {"the killed one"}
    assert not found.torn
    assert found.stored
    assert sum(found.ended.values()) > 20
    Storage(tmp_path / "models").prepare()
    assert not litter(tmp_path / "models")
