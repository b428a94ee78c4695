"""TensorRT's progress as calls of a function, which may cancel the build.

monitor = make_progress_monitor(trt, Progress(callback))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from densepack_runtime.tensorrt_plans.module import TensorRT, override

if TYPE_CHECKING:
    import tensorrt as trt_types

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


def make_progress_monitor(trt: TensorRT, progress: Progress) -> trt_types.IProgressMonitor:
    """An IProgressMonitor that tells `progress` about every step."""
    if TYPE_CHECKING:
        from tensorrt import IProgressMonitor
    else:
        IProgressMonitor = trt.IProgressMonitor  # noqa: N806 a class

    class Monitor(IProgressMonitor):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()

        @override
        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:  # noqa: ARG002
            progress.start(phase_name, num_steps)

        @override
        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.tell(phase_name, step + 1)

        @override
        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

    return Monitor()
