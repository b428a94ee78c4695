"""What processes on Ray get of the hosts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from densepack_runtime.errors import BackendError
from densepack_runtime.serving.cluster import gpu_share


def ray_with(**resources: float) -> Any:
    return SimpleNamespace(cluster_resources=lambda: resources)


@pytest.mark.parametrize(("processes", "gpus", "share"), [(1, 4, 1), (2, 2, 1), (3, 2, 0.5), (3, 1, 0.3333)])
def test_processes_share_gpus_so_that_all_find_room(processes: int, gpus: float, share: float) -> None:
    assert gpu_share(ray_with(GPU=gpus), processes) == share


def test_a_cluster_without_gpus_is_refused_where_one_is_needed() -> None:
    with pytest.raises(BackendError, match="no host of the cluster has a GPU"):
        gpu_share(ray_with(CPU=8), 1)
