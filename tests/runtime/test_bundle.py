"""A bundle is opened as it was built, or refused with the names of everything that is wrong."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from densepack_runtime.bundle import (
    MANIFEST_KIND,
    MANIFEST_SCHEMA,
    Bundle,
    Manifest,
    ModelEntry,
    ParityEntry,
    TensorEntry,
    UncheckedBundleWarning,
    _checksum,
    edit_bundle,
    write_bundle,
)
from densepack_runtime.errors import BundleError
from tests.plan_entries import plan_entry

CHECKED = ParityEntry(checked=True, passed=True, squad_name="sample", squad_sha256="00", questions=3, summary="fine")


def make_manifest(parity: ParityEntry = CHECKED) -> Manifest:
    model = ModelEntry(
        name="tiny",
        sha256="ab" * 32,
        parameters=10,
        parameters_stored=20,
        parameters_dense=30,
        linear_density=0.5,
        heads_left=1,
        heads_total=2,
        flops_per_token=100,
        flops_per_token_pair=10,
        dense_flops_per_token=200,
        dense_flops_per_token_pair=20,
        structure={"schema": 1},
    )
    tensor = TensorEntry("input_ids", "int64", ("batch", "sequence"))
    return Manifest(
        model=model,
        inputs=(tensor,),
        outputs=(tensor,),
        max_length=384,
        doc_stride=128,
        versions={"densepack": "0"},
        parity=parity,
        engines=(plan_entry(),),
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
    assert bundle.manifest.model.flops(10) == 100 * 10 + 10 * 100
    assert bundle.manifest.model.dense_flops(10) == 200 * 10 + 20 * 100


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


def test_a_foreign_manifest_is_refused(folder: Path) -> None:
    (folder / "bundle.json").write_text("[1]")
    with pytest.raises(BundleError, match="not written by densepack"):
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


def test_a_manifest_of_schema_1_is_read() -> None:
    """It had nothing closed: a precision that failed closed the bundle."""
    body = {"kind": MANIFEST_KIND, "schema": 1, **asdict(make_manifest())}
    del body["closed"]
    read = Manifest.from_json(json.dumps({**body, "checksum": _checksum(json.loads(json.dumps(body)))}))
    assert read == make_manifest()
    assert read.why_closed("openvino", "int8") is None


def test_a_manifest_of_another_densepack_is_a_clear_error(folder: Path) -> None:
    manifest = make_manifest()
    entry = asdict(manifest.engines[0])
    del entry["attention"]
    body = {"kind": MANIFEST_KIND, "schema": MANIFEST_SCHEMA, **asdict(manifest), "engines": [entry]}
    with pytest.raises(BundleError, match=r"written by another densepack .*'attention'.*: build it again"):
        Manifest.from_json(json.dumps({**body, "checksum": _checksum(body)}))
