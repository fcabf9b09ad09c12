"""The short form of kill_harness.py."""

import pytest
from kill_harness import survive


@pytest.mark.slow
def test_kills_change_nothing(tmp_path):
    assert survive(tmp_path, kills=2, epochs=2, seed=1) > 0
