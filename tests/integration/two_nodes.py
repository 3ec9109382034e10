"""A Ray cluster of two nodes on this machine, of which one may die."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil

MEMORY = 100_000_000
"""Bytes that a node has for objects."""

WORKERS = ("ray::_attempt", "ray::MapWorker")
"""What processes are called that do a job, or score images."""


class TwoNodes:
    """A cluster with a head and another node, each with one CPU, on this machine."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster as LocalCluster

        head = {"num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False}
        self.nodes: Any = LocalCluster(initialize_head=True, head_node_args=head)
        self.address: str = self.nodes.address
        self._second = self._added()

    def _added(self) -> Any:  # noqa: ANN401
        return self.nodes.add_node(num_cpus=1, object_store_memory=MEMORY)

    def _second_is_at_work(self) -> bool:
        (raylet,) = self._second.all_processes["raylet"]
        programs = [child.cmdline()[:1] for child in psutil.Process(raylet.process.pid).children()]
        return any(name[0].startswith(WORKERS) for name in programs if name)

    @contextmanager
    def loses_a_node(self, when: Callable[[], object]) -> Iterator[None]:
        """Kill the second node with all that runs on it when something is the case, and add another one at the end."""
        is_over, was_killed = threading.Event(), threading.Event()

        def kill() -> None:
            while not (when() and self._second_is_at_work()):
                if is_over.wait(0.05):
                    return
            self.nodes.remove_node(self._second, allow_graceful=False)
            was_killed.set()

        killer = threading.Thread(target=kill)
        killer.start()
        yield
        is_over.set()
        killer.join()
        assert was_killed.is_set()
        self._second = self._added()
