"""What the ladder showed: a report of every rung, kept as parity.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from densepack_runtime.bundle import PARITY_NAME, BundleDraft, ParityEntry
from densepack_runtime.errors import InputError
from densepack_runtime.host.files import write_text_atomic
from densepack_runtime.host.records import Document
from densepack_runtime.sessions.session import OPTIONAL_PRECISIONS, ComputePrecision

PARITY_KIND = "densepack parity"
PARITY_SCHEMA = 1


Status = Literal["reference", "passed", "failed", "closed", "not run"]


@dataclass(frozen=True, slots=True)
class QuestionDifference:
    """One question on which a rung is far from the reference."""

    id: str
    question: str
    reference_answer: str
    answer: str
    max_abs_logit: float
    margin: float


@dataclass(frozen=True, slots=True)
class RungReport:
    """What a rung showed. Agreement in percent of the questions, EM, F1 and drops in points."""

    name: str
    precision: ComputePrecision
    status: Status
    note: str = ""
    questions: int = 0
    windows: int = 0
    max_abs_logit: float = 0.0
    mean_abs_logit: float = 0.0
    p999_abs_logit: float = 0.0
    span_agreement: float = 100.0
    differing_spans: int = 0
    unexplained_spans: int = 0
    exact_match: float = 0.0
    f1: float = 0.0
    exact_match_drop: float = 0.0
    f1_drop: float = 0.0
    seconds: float = 0.0
    failures: tuple[str, ...] = ()
    worst: tuple[QuestionDifference, ...] = ()


@dataclass(frozen=True, slots=True)
class ParityReport:
    """The whole ladder on one SQuAD file."""

    squad_name: str
    squad_sha256: str
    rungs: tuple[RungReport, ...]

    @property
    def failures(self) -> list[str]:
        """One sentence for each limit that a rung broke, those of closed rungs aside."""
        failed = (rung for rung in self.rungs if rung.status != "closed")
        return [f"{rung.name}: {failure}" for rung in failed for failure in rung.failures]

    @property
    def passed(self) -> bool:
        """True when no rung failed and at least one was compared."""
        return not self.failures and any(rung.status == "passed" for rung in self.rungs)

    def as_dict(self) -> dict[str, Any]:
        return {"kind": PARITY_KIND, "schema": PARITY_SCHEMA, "passed": self.passed, **asdict(self)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> ParityReport:
        """Read what `as_dict` wrote. Raises InputError when it was written by something else."""
        kind, schema = record.get("kind"), record.get("schema")
        if (kind, schema) != (PARITY_KIND, PARITY_SCHEMA):
            raise InputError(
                f"a parity report of kind {kind!r} and schema {schema!r} cannot be read: check parity again"
            )
        told = {name: value for name, value in record.items() if name not in ("kind", "schema", "passed")}
        return Document("the parity report", InputError, "check parity again").record(told, cls)

    def with_rung(self, rung: RungReport) -> ParityReport:
        """This ladder with one rung more."""
        return replace(self, rungs=(*self.rungs, rung))

    def with_optional_closed(self) -> ParityReport:
        """This ladder where a failed rung of a precision that a bundle can do without closes nothing but itself."""
        closes = {
            rung.name: replace(rung, status="closed")
            for rung in self.rungs
            if rung.status == "failed" and rung.precision in OPTIONAL_PRECISIONS
        }
        return replace(self, rungs=tuple(closes.get(rung.name, rung) for rung in self.rungs))

    def joined(self, other: ParityReport) -> ParityReport:
        """This ladder with the compared rungs of another one (run on a part of the windows, say) behind its own."""
        extra = tuple(rung for rung in other.rungs if rung.status != "reference")
        return replace(self, rungs=self.rungs + extra)


def enter_report(draft: BundleDraft, report: ParityReport) -> None:
    """Put a report and its verdict into a bundle that is being written."""
    text = json.dumps(report.as_dict(), indent=1, ensure_ascii=False) + "\n"
    write_text_atomic(draft.path(PARITY_NAME), text)
    draft.manifest = replace(draft.manifest, parity=parity_entry(report))


def parity_entry(report: ParityReport) -> ParityEntry:
    """The verdict as the manifest keeps it."""
    questions = report.rungs[0].questions
    compared = sum(rung.status in ("passed", "failed") for rung in report.rungs)
    within = sum(rung.status == "passed" for rung in report.rungs)
    closed = ", ".join(rung.name for rung in report.rungs if rung.status == "closed")
    return ParityEntry(
        checked=True,
        passed=report.passed,
        squad_name=report.squad_name,
        squad_sha256=report.squad_sha256,
        questions=questions,
        summary=f"{within} of {compared} rungs within tolerance on {questions} questions"
        + (f"; closed: {closed}" if closed else ""),
    )
