"""TensorRT's progress as calls of a function, which may cancel the build.

monitor = make_progress_monitor(trt, Progress(callback))
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

ProgressCallback = Callable[[str, int, int], None]
"""Called with a phase of the build, the steps done in it and their number; an exception in it cancels the build."""


class Progress:
    """Passes TensorRT's progress on and remembers what the callback raised: nothing may be raised through C++."""

    def __init__(self, callback: ProgressCallback) -> None:
        self.callback = callback
        self.raised: BaseException | None = None
        self._totals: dict[str, int] = {}

    def start(self, phase: str, total: int) -> None:
        """A phase of `total` steps begins."""
        self._totals[phase] = total
        self.tell(phase, 0)

    def finish(self, phase: str) -> None:
        """A phase ends."""
        self.tell(phase, self._totals.get(phase, 0))

    def tell(self, phase: str, done: int) -> bool:
        """False cancels the build."""
        if self.raised is None:
            try:
                self.callback(phase, done, self._totals.get(phase, 0))
            except BaseException as error:  # noqa: BLE001 Ctrl-C arrives here too; build_plan raises it again
                self.raised = error
        return self.raised is None


def make_progress_monitor(trt: ModuleType, progress: Progress) -> Any:
    """An IProgressMonitor that tells `progress` about every step."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:  # noqa: ARG002
            progress.start(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.tell(phase_name, step + 1)

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

    return Monitor()
