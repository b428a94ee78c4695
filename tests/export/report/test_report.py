"""The report: it says what the bundle and the documents say, it is complete in itself, and nothing in it runs."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from densepack_export.report.facts import BundleFacts, ReportFacts, gather
from densepack_export.report.page import render
from densepack_export.report.writing import refresh_report
from densepack_runtime.bundle import PARITY_NAME, REPORT_NAME, Bundle, edit_bundle
from densepack_runtime.errors import InputError
from densepack_runtime.host.files import write_text_atomic
from tests.command_line import CommandLine
from tests.conftest import BUNDLE_QUESTIONS
from tests.export.report.reports import PLANTED, SCRIPT, benchmark, planted, renamed

LARGEST_BYTES = 3 * 10**6
# Elements that HTML never closes.
VOID = {"meta", "link"}


class Page(HTMLParser):
    """Texts of a page by the element they are in, its elements and their attributes; faults of nesting."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[list[str]] = []
        self.feed(html)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        elif tag in ("th", "td"):
            self.cells[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.texts.append(data)
        if {"th", "td"} & set(self.open):
            self.cells[-1][-1] = " ".join(f"{self.cells[-1][-1]} {data}".split())

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def row(self, *first: str) -> list[str]:
        """The one row of a table that begins with these cells."""
        [found] = [row for row in self.cells if tuple(row[: len(first)]) == first]
        return found


@pytest.fixture(scope="module")
def facts(default_bundle: Path) -> ReportFacts:
    return gather([default_bundle])


@pytest.fixture(scope="module")
def bundle(facts: ReportFacts) -> BundleFacts:
    return facts.bundles[0]


@pytest.fixture(scope="module")
def full(bundle: BundleFacts) -> Page:
    """One bundle with everything that a page can hold."""
    return Page(render(ReportFacts((planted(bundle),), (benchmark("bundle"),))))


def test_a_bundle_brings_its_report(default_bundle: Path) -> None:
    html = (default_bundle / REPORT_NAME).read_text(encoding="utf-8")
    assert Bundle.open(default_bundle).manifest.files[REPORT_NAME].bytes == len(html.encode()) < LARGEST_BYTES
    page = Page(html)
    assert page.row("parameters") == ["parameters", "22,566,146", "20,694,722", "14,696,522"]
    assert page.row("heads") == ["heads", "72", "", "34"]
    assert page.row("ONNX FP32", "passed")[2].startswith("|Δ| ≤ 0.001")
    assert page.row("4", "1 2 5 6 7 9 10")[2] == "88"
    assert "34 heads left, 38 of 72 removed" in page.text
    assert "gold answer" in page.text, "the sample set is at hand"


def test_everything_is_in_the_page(full: Page) -> None:
    assert not [tag for tag, _ in full.elements if tag in ("script", "img", "iframe", "object", "image")]
    addresses = [
        value or ""
        for _, attributes in full.elements
        for name, value in attributes.items()
        if name in ("src", "href", "action", "data") or name.startswith("on")
    ]
    assert all(address.startswith(("#", "data:,")) for address in addresses)
    ids = [attributes["id"] for _, attributes in full.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {address for address in addresses if address.startswith("#")} <= {f"#{name}" for name in ids}


def test_what_comes_from_data_stays_text(full: Page) -> None:
    row = full.row(f"Who {SCRIPT}?")
    assert row[1:] == [f"{SCRIPT} one", f"{SCRIPT} two", "0.125", "0.25"]
    assert f"a processor {SCRIPT}" in full.text


def test_a_name_with_markup_stays_text(bundle: BundleFacts) -> None:
    name = f'"><b onload=x>{SCRIPT}'
    model = replace(bundle.manifest.model, name=name)
    page = Page(render(ReportFacts((replace(bundle, name=name, manifest=replace(bundle.manifest, model=model)),))))
    assert not [tag for tag, _ in page.elements if tag in ("b", "script")]
    assert page.row("checkpoint") == ["checkpoint", name]


def test_rungs_that_failed_or_did_not_run_stand_out(full: Page) -> None:
    marks = [(attributes.get("class"), tag) for tag, attributes in full.elements if tag == "span"]
    assert ("mark bad", "span") in marks
    assert ("mark open", "span") in marks
    assert full.row("plan x") == ["plan x", "built, not run", *[""] * 11]
    assert "1 built, not run" in full.text
    assert "Built, not run: plan x. No machine that checked this bundle could run it" in full.text
    assert "Outside its limits: ONNX INT8: too far" in full.text
    assert "ONNX INT8 answers 1 of 16 questions otherwise" in full.text
    opened = [attributes for tag, attributes in full.elements if tag == "details" and "open" in attributes]
    assert {attributes["class"] for attributes in opened} == {"worst"}


def test_speed_is_what_was_measured(full: Page) -> None:
    assert full.row("bundle@packed", "8x384", "2.00") == [
        "bundle@packed", "8x384", "2.00", "1.75", "2.25", "4.00", "50 %"
    ]  # fmt: skip
    assert full.row("a@dense", "1x128") == ["a@dense", "1x128", "128.00", "5.0 %", "7.8", "1,000", "50.0"]
    assert full.row("bundle@packed", "100.0")[-4:] == ["4.0 %", "71.25", "81.12", "2.00"]
    for said in ("densepack bench a@dense …", "5 interleaved rounds", "peak memory, MiB", "batch of 8"):
        assert said in full.text


def test_sections_that_were_not_measured_are_left_out(bundle: BundleFacts) -> None:
    document = benchmark("bundle")
    for section in ("squad", "growth", "ratios"):
        del document.document[section]
    page = Page(render(ReportFacts((replace(bundle, parity=None),), (document,))))
    assert "Latency and throughput" in page.text
    assert "peak memory" not in page.text
    assert "Parity was not checked" in page.text


def test_bundles_are_compared(bundle: BundleFacts) -> None:
    pair = (renamed(bundle, "first", 80.0), renamed(bundle, "second", 81.0))
    measured = Page(render(ReportFacts(pair, (benchmark("first", "second"),))))
    assert measured.row("first default")[5:] == ["80.00", str(BUNDLE_QUESTIONS), "2.00", "passed"]
    assert measured.row("second default")[5:] == ["81.00", str(BUNDLE_QUESTIONS), "3.00", "passed"]
    assert "times as fast as its own dense model, measured at 8x384 in FP32" in measured.text
    partly = Page(render(ReportFacts(pair, (benchmark("first"),))))
    assert partly.row("second default")[7] == "3.45"
    assert "a limit, not measured" in partly.text


def test_scores_on_other_questions_are_not_compared_silently(bundle: BundleFacts) -> None:
    other = renamed(bundle, "other")
    assert other.parity is not None
    other = replace(other, parity=replace(other.parity, squad_sha256="1" * 64))
    assert "not of the same questions" in Page(render(ReportFacts((bundle, other)))).text


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_bundle(default_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(default_bundle, tmp_path / "bundle"))


def test_a_report_is_replaced_on_demand(densepack: CommandLine, own_bundle: Path, tmp_path: Path) -> None:
    document = tmp_path / "bench.json"
    document.write_text(json.dumps(benchmark("bundle").document), encoding="utf-8")
    before = Bundle.open(own_bundle).manifest
    [line] = densepack("report", own_bundle, "--bench", document).error_lines
    assert "exists already: pass --overwrite" in line
    done = densepack("report", own_bundle, "--bench", document, "--overwrite", "--json")
    assert done.code == 0, done.err
    path = own_bundle / REPORT_NAME
    assert json.loads(done.out) == {"report": str(path), "bytes": path.stat().st_size}
    assert "How fast is it?" in path.read_text(encoding="utf-8")
    after = Bundle.open(own_bundle).manifest
    assert {name for name in before.files if before.files[name] != after.files[name]} == {REPORT_NAME}
    assert densepack("report", own_bundle, own_bundle, "--out", tmp_path / "both.html").code == 0
    assert "2 bundles compared" in (tmp_path / "both.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("BUNDLE", "BUNDLE"), "one page about 2 bundles belongs to none of them: say where with --out FILE"),
        (("BUNDLE", "--out", "x.html", "--squad", "squad.json"), "is not the file that parity was checked on"),
        (("BUNDLE", "--out", "x.html", "--bench", "{}"), "lacks kind, hardware, versions, sides"),
        (("BUNDLE", "--out", "x.html", "--bench", "other"), "is a 'densepack parity', not a 'densepack benchmark'"),
        (("BUNDLE", "--out", "x.html", "--bench", "rows"), "cannot be read: KeyError('batch')"),
        (("nowhere", "--out", "x.html"), "is not a bundle"),
    ],
)
def test_what_cannot_be_reported(
    densepack: CommandLine,
    default_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    bench = {"kind": "densepack benchmark", "hardware": {"cores": 1, "processor": "p"}, "versions": {}, "sides": []}
    squad = {"paragraphs": [{"context": "a b", "qas": [{"id": "1", "question": "q", "answers": []}]}]}
    files = {
        "{}": {},
        "other": {**bench, "kind": "densepack parity"},
        "rows": {**bench, "latency": [{"side": "a"}]},
        "squad.json": {"version": "2.0", "data": [squad]},
    }
    for name, content in files.items():
        Path(name).write_text(json.dumps(content), encoding="utf-8")
    places = {"BUNDLE": str(default_bundle)}
    [line] = densepack("report", *(places.get(argument, argument) for argument in arguments)).error_lines
    assert message in line
    assert not Path("x.html").exists()


def test_gold_answers_come_from_the_file_of_the_build(bundle: BundleFacts, default_bundle: Path) -> None:
    assert bundle.parity is not None
    worst = next(rung.worst[0] for rung in bundle.parity.rungs if rung.worst)
    [row] = {tuple(row[:2]) for row in Page(render(ReportFacts((bundle,)))).cells if row[0] == worst.question}
    assert row[1].split(" / ")[0] == bundle.gold[worst.id][0]
    with pytest.raises(InputError, match="is not the file that parity was checked on"):
        gather([default_bundle], squad=_another_squad(default_bundle.parent))


def _another_squad(folder: Path) -> Path:
    path = folder / "another.json"
    qas = [{"id": "1", "question": "q?", "answers": [{"text": "a", "answer_start": 0}]}]
    document = {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": "a b", "qas": qas}]}]}
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_a_report_follows_its_bundle(own_bundle: Path, bundle: BundleFacts) -> None:
    parity = planted(bundle).parity
    assert parity is not None
    told: list[str] = []
    with edit_bundle(Bundle.open(own_bundle)) as draft:
        write_text_atomic(draft.path(PARITY_NAME), json.dumps(parity.as_dict()))
        refresh_report(draft, "bundle", told.append)
    Bundle.open(own_bundle)
    page = Page((own_bundle / REPORT_NAME).read_text(encoding="utf-8"))
    assert "Outside its limits: ONNX INT8: too far" in page.text
    assert page.row(PLANTED.question)
    assert told[0].startswith("report.html: ")


def test_a_report_that_would_be_wrong_goes(own_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without the extra changes a bundle: an old page would tell of the bundle as it was."""
    told: list[str] = []
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jinja2" else found(name))
    with edit_bundle(Bundle.open(own_bundle)) as draft:
        refresh_report(draft, "bundle", told.append)
    assert REPORT_NAME not in Bundle.open(own_bundle).manifest.files
    assert re.fullmatch(r"no report.html: jinja2 is missing; pip install 'densepack\[report\]', .*", told[0])
