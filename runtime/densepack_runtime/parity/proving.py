"""A host proves a bundle for itself: every backend and precision that opens here, each in a process of its own.

    proofs = prove(bundle, Host.here())
    [proof for proof in proofs if not proof.passed]

A bundle is proven where it was built and then runs somewhere else. What crashes, hangs or gives NaN there is a finding
about one backend, and the others are judged all the same. Each is opened twice, the second time from what the first
has compiled, and runs the recorded windows and the corners of what a batch can be; those that pass are timed in turn.
"""

from __future__ import annotations

import importlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from densepack_runtime.backends import BACKENDS, Choice, choose_backend, open_choice
from densepack_runtime.bundle import REFERENCE_NAME, Bundle
from densepack_runtime.errors import BackendError, BundleError, DensepackError, ParityError
from densepack_runtime.host.fresh_process import FreshProcess
from densepack_runtime.host.here import Host
from densepack_runtime.host.machine import peak_resident_mib
from densepack_runtime.parity.corners import check_recorded, corner_batches, cut
from densepack_runtime.parity.recorded_reference import RecordedReference
from densepack_runtime.parity.report import RungReport
from densepack_runtime.sessions.batching import MAX_BATCH, pad_windows
from densepack_runtime.sessions.host_record import Proof
from densepack_runtime.sessions.options import SessionOptions
from densepack_runtime.sessions.session import Batch, Logits, Session

# What a whole judgement may take, and a measurement; the embedded checkpoint takes seconds.
JUDGEMENT_SECONDS, MEASUREMENT_SECONDS = 300.0, 60.0
BATCHES, SHORT = (1, 8), 128
ROUNDS = 5
SAMPLE_SECONDS = 0.1
# A corner may be so many times as far from the reference as the recorded windows were, in the same precision.
CORNER_FACTOR = 2.0
SMALLEST_DIFFERENCE = 1e-3  # the limit for float32 where rounding differs from shape to shape

Told = Callable[[str], None]
Shape = tuple[int, int]


def contenders(bundle: Bundle, host: Host) -> list[Choice]:
    """What could open here, each backend in each precision that the bundle has and no build has closed."""
    found = []
    for backend in BACKENDS.values():
        for precision in backend.precisions_on(host):
            try:
                found.append(choose_backend(bundle, backend.name, precision, host))
            except BackendError:  # no such graph, no plan that fits, closed at build
                continue
    return found


def prove(
    bundle: Bundle, choices: Sequence[Choice], threads: int | None = None, told: Told = lambda _: None
) -> tuple[Proof, ...]:
    """Judge and time each of `choices`. Raises BundleError when the bundle has no recorded reference."""
    bundle.path(REFERENCE_NAME)
    with ExitStack() as processes:
        trials = []
        for choice in choices:
            told(f"judging {choice.backend} {choice.precision}")
            process = processes.enter_context(FreshProcess(Trial, bundle.folder, choice, threads, _registers(choice)))
            trials.append(_judged(process, choice))
        return _timed(trials, shapes_of(bundle), told)


def refuse_wrong(bundle: Bundle, choice: Choice, options: SessionOptions) -> None:
    """Raise ParityError where a choice does not answer here as was recorded.

    It is opened once, in a process of its own, and leaves in the cache what it compiled. Raises BundleError where
    nothing is recorded, BackendError where it ends that process or hangs, and what opening it raises.
    """
    if REFERENCE_NAME not in bundle.manifest.files:
        raise BundleError(
            f"the bundle {bundle.folder} has no answers to prove it by ({REFERENCE_NAME}): build it without --no-parity"
        )
    with FreshProcess(Trial, bundle.folder, choice, options.threads, _registers(choice)) as process:
        reports = process.call("judge_once", options, limit_s=JUDGEMENT_SECONDS)
    if failures := [failure for report in reports for failure in report.failures]:
        raise ParityError(f"{choice.backend} {choice.precision} is wrong here: {'; '.join(failures)}")


def shapes_of(bundle: Bundle) -> tuple[Shape, ...]:
    """The shapes that are timed: a small and a larger batch, of short and of the longest windows."""
    longest = bundle.manifest.max_length
    return tuple((rows, length) for length in sorted({min(SHORT, longest), longest}) for rows in BATCHES)


@dataclass
class Trial:
    """One choice, in the process that it is tried in."""

    folder: Path
    choice: Choice
    threads: int | None
    registers: str

    def __post_init__(self) -> None:
        importlib.import_module(self.registers)
        self.bundle = Bundle.open(self.folder, verify=False)
        self.recorded = RecordedReference.load(self.bundle.path(REFERENCE_NAME))
        self.session: Session | None = None

    def judge(self) -> list[RungReport]:
        """Reports of a cold start and of a warm one; the session stays open."""
        reports = []
        with tempfile.TemporaryDirectory() as cache:
            options = SessionOptions(threads=self.threads, cache=Path(cache))
            for start in ("cold", "warm"):
                if self.session is not None:
                    self.session.close()
                self.session = open_choice(self.bundle, self.choice, options)
                reports += [replace(report, note=start) for report in self._judge(self.session)]
        return reports

    def judge_once(self, options: SessionOptions) -> list[RungReport]:
        """Reports of one start with these options."""
        with open_choice(self.bundle, self.choice, options) as session:
            return list(self._judge(session))

    def _judge(self, session: Session) -> Iterator[RungReport]:
        name, precision = self.choice.backend, self.choice.precision
        ordinary = check_recorded(name, precision, session, self.recorded)
        yield ordinary
        limit = CORNER_FACTOR * max(ordinary.max_abs_logit, SMALLEST_DIFFERENCE)
        if self.choice.plan is None:
            failures = tuple(_corner_faults(session, self.recorded, self.bundle.manifest.max_length, limit))
            yield RungReport(f"{name}, corners", precision, "failed" if failures else "passed", failures=failures)

    def milliseconds(self, shape: Shape) -> float:
        """The median call on real windows in one shape, after one that is not timed."""
        assert self.session is not None
        [batch] = corner_batches(self.recorded.windows, [shape])
        self.session.run(batch)
        seconds: list[float] = []
        while sum(seconds) < SAMPLE_SECONDS:
            begin = time.perf_counter()
            self.session.run(batch)
            seconds.append(time.perf_counter() - begin)
        return 1e3 * statistics.median(seconds)

    def peak_mib(self) -> float | None:
        return peak_resident_mib()


def _corner_faults(session: Session, recorded: RecordedReference, longest: int, limit: float) -> Iterator[str]:
    """Corners whose logits are not what was recorded, or for one token alone not the same whatever it is padded to."""
    ordered = sorted(recorded.windows, key=lambda window: window.length)
    batches = {
        "the longest window alone": [ordered[-1]],
        "the largest batch": [ordered[index % len(ordered)] for index in range(MAX_BATCH)],
        "the shortest window beside the longest": [ordered[0], ordered[-1]],
    }
    for name, windows in batches.items():
        batch = pad_windows(windows)
        yield from _fault(name, batch, session.run(batch), recorded.logits_of(batch), limit)
    one = pad_windows([cut(ordered[0], 1)])
    alone, padded = session.run(one), session.run(pad_windows(one.windows, length=longest))
    beside = Logits(padded.start[:, :1], padded.end[:, :1])
    yield from _fault("one token alone, and all padding but one", one, beside, alone, limit)


def _fault(name: str, batch: Batch, logits: Logits, wanted: Logits, limit: float) -> Iterator[str]:
    real = batch.attention_mask.astype(bool)
    both = (np.abs(logits.start - wanted.start)[real], np.abs(logits.end - wanted.end)[real])
    difference = max(float(part.max()) for part in both)
    if not difference <= limit:  # NaN, too
        yield f"{name}: logits differ by {difference:.3g}, more than {limit:.3g}"


# --- the half of the process that asks --------------------------------------------------------------------------------


def _registers(choice: Choice) -> str:
    """The module whose import makes the backend known, in another process, too."""
    return BACKENDS[choice.backend].open.__module__


def _judged(process: FreshProcess, choice: Choice) -> tuple[FreshProcess, Proof]:
    plan = choice.plan.plan if choice.plan is not None else ""
    proof = Proof(choice.backend, choice.precision, plan=plan)
    try:
        reports = process.call("judge", limit_s=JUDGEMENT_SECONDS)
    except DensepackError as error:
        return process, replace(proof, findings=(str(error),))
    except Exception as error:  # noqa: BLE001 - of a library: a finding like any other
        return process, replace(proof, findings=(f"{type(error).__name__}: {error}",))
    return process, replace(
        proof,
        findings=tuple(f"{report.note} start: {failure}" for report in reports for failure in report.failures),
        span_agreement=reports[0].span_agreement,
        max_abs_logit=reports[0].max_abs_logit,
    )


def _timed(trials: Sequence[tuple[FreshProcess, Proof]], shapes: Sequence[Shape], told: Told) -> tuple[Proof, ...]:
    """Times in interleaved rounds: the machine may be shared, and what is compared is measured side by side."""
    times: dict[tuple[int, Shape], list[float]] = {}
    proofs = [proof for _, proof in trials]
    for shape in tuple(shapes) * ROUNDS:
        told(f"timing {shape[0]}x{shape[1]}")
        for number, (process, _) in enumerate(trials):
            if not proofs[number].passed:
                continue
            try:
                taken = process.call("milliseconds", shape, limit_s=MEASUREMENT_SECONDS)
            except DensepackError as error:
                proofs[number] = replace(proofs[number], findings=(str(error),))
            else:
                times.setdefault((number, shape), []).append(taken)
    for number, (process, _) in enumerate(trials):
        if proofs[number].passed:
            medians = {f"{rows}x{length}": statistics.median(times[number, (rows, length)]) for rows, length in shapes}
            proofs[number] = replace(proofs[number], milliseconds=medians, peak_mib=process.call("peak_mib"))
    return tuple(proofs)
