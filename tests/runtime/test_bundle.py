"""A bundle is opened as it was built, or refused with the names of everything that is wrong."""

from __future__ import annotations

import json
import os
import socket
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from densepack_runtime.bundle import (
    Bundle,
    FailedBundleWarning,
    Manifest,
    ModelEntry,
    ParityEntry,
    TensorEntry,
    UncheckedBundleWarning,
    edit_bundle,
    write_bundle,
)
from densepack_runtime.bundle.manifest import checksum
from densepack_runtime.errors import BundleError
from densepack_runtime.host.records import data_from_record
from densepack_runtime.host.strict_json import LARGEST_BYTES
from densepack_runtime.sessions.fp16_range import RangeReport
from densepack_runtime.sessions.session import INPUT_NAMES
from densepack_runtime.structure import LayerStructure, Structure
from tests.plan_entries import plan_entry

CHECKED = ParityEntry(checked=True, passed=True, squad_name="sample", squad_sha256="00", questions=3, summary="fine")


def make_manifest(parity: ParityEntry = CHECKED) -> Manifest:
    structure = Structure(30, 512, 2, 4, 2, 6, (LayerStructure(heads=(1,), ffn_units=(0, 2), ffn_width=2),))
    model = ModelEntry(name="tiny", sha256="ab" * 32, parameters_stored=20, structure=structure)
    inputs = tuple(TensorEntry(name, "int64", ("batch", "sequence")) for name in INPUT_NAMES)
    return Manifest(
        model=model,
        inputs=inputs,
        outputs=inputs[:1],
        max_length=384,
        doc_stride=128,
        versions={"densepack": "0"},
        parity=parity,
        engines=(plan_entry(),),
        fp16_range=RangeReport({"/layer.0/ffn/output/Add": 3.5}, {"qa_outputs.weight": 0.0}, windows=12),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target = tmp_path / "bundle"
    with write_bundle(target, make_manifest()) as draft:
        draft.path("tokenizer.json").write_text("{}")
        draft.path("model.onnx").write_bytes(bytes(range(256)))
        draft.path("engines").mkdir()
        draft.path("engines/a.plan").write_bytes(b"plan")
    return target


def test_opened_as_written(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert replace(bundle.manifest, files={}) == make_manifest()
    assert sorted(bundle.manifest.files) == ["engines/a.plan", "model.onnx", "tokenizer.json"]
    assert bundle.tokenizer_json == "{}"
    assert bundle.graph("fp32") == folder / "model.onnx"
    assert bundle.precisions == ("fp32",)


def test_every_changed_byte_is_found(folder: Path) -> None:
    path = folder / "model.onnx"
    good = path.read_bytes()
    for place in range(0, len(good), 17):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(BundleError, match="model.onnx is damaged"):
            Bundle.open(folder)


def test_every_changed_byte_of_the_manifest_is_found(folder: Path) -> None:
    path = folder / "bundle.json"
    good = path.read_bytes()
    for place in range(0, len(good), 7):
        if good[place : place + 1].isspace():
            continue
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(BundleError):
            Bundle.open(folder)


def test_all_faults_are_named_at_once(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "model.onnx").write_bytes(b"short")
    (folder / "notes.txt").write_text("hello")
    with pytest.raises(BundleError) as caught:
        Bundle.open(folder)
    message = str(caught.value)
    assert "tokenizer.json is missing" in message
    assert "notes.txt does not belong to it" in message
    assert "model.onnx has 5 bytes instead of 256" in message


def test_without_verification_sizes_are_still_checked(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(bytes(256))
    Bundle.open(folder, verify=False)
    (folder / "model.onnx").write_bytes(bytes(255))
    with pytest.raises(BundleError, match="255 bytes"):
        Bundle.open(folder, verify=False)


def rewrite(folder: Path, **changes: Any) -> None:
    data = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps({**data, **changes}))


def test_a_manifest_edited_by_hand_is_refused(folder: Path) -> None:
    rewrite(folder, max_length=512)
    with pytest.raises(BundleError, match="was changed after it was written"):
        Bundle.open(folder)


def test_another_schema_is_refused(folder: Path) -> None:
    rewrite(folder, schema=99)
    with pytest.raises(BundleError, match="schema 99"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", "not written by densepack"),
        (b"[1]", "Expected `object`, got `array`"),
        (b"{", "it is not JSON: Expecting property name"),
        (b'"\xff"', "it is not JSON: 'utf-8' codec"),
        (b"9" * 5000, "it is not JSON: Exceeds the limit"),
        (b"[" * 100_000, "it is not JSON: maximum recursion depth"),
    ],
)
def test_a_foreign_manifest_is_refused(folder: Path, content: bytes, message: str) -> None:
    (folder / "bundle.json").write_bytes(content)
    with pytest.raises(BundleError, match=message):
        Bundle.open(folder)


def test_a_folder_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle.*densepack build"):
        Bundle.open(tmp_path)


def test_an_unknown_file_is_refused_by_name(folder: Path) -> None:
    with pytest.raises(BundleError, match="has no model.fp16.onnx; it has"):
        Bundle.open(folder).graph("fp16")


def test_an_unchecked_bundle_warns(tmp_path: Path) -> None:
    with write_bundle(tmp_path / "bundle", make_manifest(ParityEntry(checked=False))):
        pass
    with pytest.warns(UncheckedBundleWarning, match="--no-parity"):
        Bundle.open(tmp_path / "bundle")


def test_a_bundle_that_failed_its_check_warns(tmp_path: Path) -> None:
    verdict = ParityEntry(checked=True, passed=False, summary="3 of 4 rungs within tolerance on 16 questions")
    with write_bundle(tmp_path / "bundle", make_manifest(verdict)):
        pass
    with pytest.warns(FailedBundleWarning, match=r"failed its last parity check \(3 of 4 rungs"):
        Bundle.open(tmp_path / "bundle")


@pytest.mark.parametrize("verdict", [ParityEntry(checked=False), ParityEntry(checked=True)])
def test_a_bundle_that_is_not_proven_is_refused_when_strict(tmp_path: Path, verdict: ParityEntry) -> None:
    with write_bundle(tmp_path / "bundle", make_manifest(verdict)):
        pass
    with pytest.raises(BundleError, match="is not proven"):
        Bundle.open(tmp_path / "bundle", strict=True)


def test_a_proven_bundle_opens_strictly(folder: Path) -> None:
    assert Bundle.open(folder, strict=True).manifest.parity.passed


# --- what is no file, and what no bundle can say ----------------------------------------------------------------------


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))


PLANTS: dict[str, Callable[[Path], object]] = {
    "FIFO": make_fifo,
    "socket": make_socket,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "looping link": lambda path: path.symlink_to(path.name),
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "link to a folder": lambda path: path.symlink_to("/"),
}


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS)
@pytest.mark.parametrize("name", ["model.onnx", "extra", "bundle.json"])
def test_what_is_no_file_is_a_fault(
    folder: Path, name: str, plant: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)  # names of sockets are short
    (folder / name).unlink(missing_ok=True)
    plant(folder / name)
    with pytest.raises(BundleError, match=name):
        Bundle.open(folder)


def test_a_file_may_be_a_link_to_one(folder: Path, tmp_path: Path) -> None:
    (folder / "model.onnx").rename(tmp_path / "elsewhere")
    (folder / "model.onnx").symlink_to(tmp_path / "elsewhere")
    assert Bundle.open(folder).precisions == ("fp32",)


def test_a_tokenizer_that_is_no_text(folder: Path) -> None:
    with edit_bundle(Bundle.open(folder)) as draft:
        draft.path("tokenizer.json").unlink()
        draft.path("tokenizer.json").write_bytes(b"\xff")
    with pytest.raises(BundleError, match=r"tokenizer.json cannot be read: 'utf-8' codec"):
        assert Bundle.open(folder).tokenizer_json


def test_a_huge_manifest_is_not_read(folder: Path) -> None:
    with (folder / "bundle.json").open("ab") as file:
        file.truncate(LARGEST_BYTES + 1)
    with pytest.raises(BundleError, match=r"it has 67,108,865 bytes, at most 67,108,864 are read"):
        Bundle.open(folder)


def test_a_name_that_is_too_long() -> None:
    with pytest.raises(BundleError, match="cannot be read: .*File name too long"):
        Bundle.open("x" * 5000)


def test_failed_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), write_bundle(tmp_path / "bundle", make_manifest()) as draft:
        draft.path("model.onnx").write_bytes(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_editing_replaces_only_what_changed(folder: Path) -> None:
    bundle = Bundle.open(folder)
    before = (folder / "model.onnx").stat().st_ino
    with edit_bundle(bundle) as draft:
        draft.path("parity.json").write_text("{}")
        draft.manifest = replace(draft.manifest, max_length=256)
    edited = Bundle.open(folder)
    assert edited.manifest.max_length == 256
    assert set(edited.manifest.files) == {*bundle.manifest.files, "parity.json"}
    assert (folder / "model.onnx").stat().st_ino == before


def test_failed_editing_leaves_the_bundle_as_it_was(folder: Path) -> None:
    before = (folder / "bundle.json").read_bytes()
    with pytest.raises(KeyboardInterrupt), edit_bundle(Bundle.open(folder)) as draft:
        draft.path("model.onnx").unlink()
        raise KeyboardInterrupt
    assert (folder / "bundle.json").read_bytes() == before
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Bundle.open(folder)


# --- other versions, and what they may not hold ---------------------------------------------------------------------


def told(manifest: Manifest) -> dict[str, Any]:
    """What bundle.json holds, its checksum left out."""
    body: dict[str, Any] = json.loads(manifest.to_json())
    del body["checksum"]
    return body


def signed(body: dict[str, Any]) -> str:
    return json.dumps({**body, "checksum": checksum(body)})


def test_a_manifest_of_schema_1_is_read() -> None:
    """It had nothing closed: a precision that failed closed the bundle."""
    body = {**told(make_manifest()), "schema": 1}
    del body["closed"]
    read = Manifest.from_json(signed(body))
    assert read == make_manifest()
    assert read.why_closed("openvino", "int8") is None


def test_a_manifest_without_measured_ranges_keeps_its_empty_place() -> None:
    body = {**told(make_manifest()), "fp16_range": {}}
    read = Manifest.from_json(signed(body))
    assert read.fp16_range is None
    assert told(read) == body


def test_the_manifest_tells_what_follows_from_the_structure_and_the_proof() -> None:
    body = told(make_manifest())
    assert body["model"] == {
        "structure": data_from_record(make_manifest().model.structure),
        "name": "tiny",
        "sha256": "ab" * 32,
        "parameters_stored": 20,
        "parameters": 2274,
        "parameters_dense": 2348,
        "linear_density": 48 / 112,
        "heads_left": 1,
        "heads_total": 2,
        "flops_per_token": 2 * (48 + 8),
        "flops_per_token_pair": 8,
        "dense_flops_per_token": 2 * (112 + 8),
        "dense_flops_per_token_pair": 16,
    }
    [entry] = body["engines"]
    assert (entry["products"], entry["half_products"], entry["attention"]) == (43, 43, "6 fused")


def test_a_figure_that_another_version_counted_otherwise_is_passed_over() -> None:
    body = told(make_manifest())
    body["model"]["parameters"] = 7
    assert Manifest.from_json(signed(body)) == make_manifest()


def put(*place: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change of the document: something else at a place."""

    def change(body: Any) -> None:
        for step in place[:-1]:
            body = body[step]
        body[place[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda body: body.pop("max_length"), "missing required field `max_length`"),
        (lambda body: body["model"].pop("sha256"), "missing required field `sha256` - at `model`"),
        (lambda body: body["engines"][0].pop("proof"), r"missing required field `proof` - at `engines\[0\]`"),
        (put("max_length", value="384"), "Expected `int`, got `str` - at `max_length`"),
        (put("max_length", value=True), "Expected `int`, got `bool` - at `max_length`"),
        (put("max_length", value=float("nan")), "Expected `int`, got `float` - at `max_length`"),
        (put("max_length", value=float("inf")), "Expected `int`, got `float` - at `max_length`"),
        (put("model", value=None), "Expected `object`, got `null` - at `model`"),
        (put("model", "structure", "layers", 0, "heads", 0, value="1"), r"`model.structure.layers\[0\].heads\[0\]`"),
        (put("model", "structure", "schema", value=3), "Invalid enum value 3 - at `model.structure.schema`"),
        (put("model", "structure", "vocab_size", value=10**400), "no model has vocab_size 1000"),
        (put("model", "structure", "layers", value=[]), "no model has num_layers 0"),
        (put("engines", 0, "profiles", 0, "opt", value=[9, 1]), "the profile .* cannot be"),
        (put("engines", 0, "precision", value="fp8"), r"Invalid enum value 'fp8' - at `engines\[0\].precision`"),
        (put("engines", 0, "seconds", value=10**400), r"Number out of range - at `engines\[0\].seconds`"),
        (put("engines", 0, "proof", "colour", value=1), r"unknown: `engines\[0\].proof.colour`"),
        (put("fp16_range", value={"limit": 3e4}), "missing required field `magnitudes` - at `fp16_range`"),
        (put("closed", value=[{"backend": "b", "precision": "fp32"}]), r"`reason` - at `closed\[0\]`"),
        (put("files", value={"a": {"sha256": "0", "bytes": 1, "x": 2}}), r"unknown: `files\['a'\].x`"),
        (put("colour", value="red"), "unknown: `colour`"),
        (put("files", value={"../x": {"sha256": "0", "bytes": 1}}), "a file '../x' outside of itself"),
        (put("files", value={"/etc/passwd": {"sha256": "0", "bytes": 1}}), "a file '/etc/passwd' outside of itself"),
        (put("files", value={"": {"sha256": "0", "bytes": 1}}), "a file '' outside of itself"),
        (put("engines", 0, "plan", value="../a.plan"), "a plan '../a.plan' outside of itself"),
        (put("max_length", value=-1), "windows of -1 tokens that overlap by 128"),
        (put("max_length", value=513), "windows of 513 tokens .* for a model of at most 512 tokens"),
        (
            put("model", "structure", "position_pad_id", value=200),
            "windows of 384 tokens .* for a model of at most 311 tokens",
        ),
        (put("inputs", value=[]), r"the inputs \(\) for a model with fed token types"),
        (put("max_length", value=10**12), "windows of 1000000000000 tokens"),
        (put("doc_stride", value=384), "windows of 384 tokens that overlap by 384"),
        (put("doc_stride", value=10**30), "overlap by 10+"),
        (put("model", "structure", "num_attention_heads", value=10**30), "no model has num_attention_heads 10+"),
        (put("model", "structure", "layer_norm_eps", value=float("nan")), "no model has layer_norm_eps nan"),
        (
            put("model", "structure", "layers", value=[{"heads": [], "ffn_units": [], "ffn_width": 0}] * 100_000),
            "no model has num_layers 100000",
        ),
        (put("model", "structure", "a\nb", value="red"), "unknown: `model.structure.a b`"),
    ],
)
def test_a_manifest_of_another_densepack_is_one_clear_line(
    change: Callable[[dict[str, Any]], None], message: str
) -> None:
    body = told(make_manifest())
    change(body)
    with pytest.raises(BundleError, match=message) as caught:
        Manifest.from_json(signed(body))
    assert "\n" not in str(caught.value)
    assert "written by another densepack" in str(caught.value)
    assert "build it again" in str(caught.value)


def test_numbers_that_are_none_are_read_where_they_were_measured() -> None:
    """The gate may have seen an overflow; the bundle says so and opens."""
    body = told(make_manifest())
    body["fp16_range"]["magnitudes"]["/qa_outputs/Add"] = float("nan")
    read = Manifest.from_json(signed(body)).fp16_range
    assert read is not None
    assert read.worst_name == "/qa_outputs/Add"
