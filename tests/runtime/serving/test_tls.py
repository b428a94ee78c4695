"""HTTPS on loopback with a certificate of the test's own, and files that cannot be used told before anything starts."""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
from pathlib import Path

from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.question_answering.windows import Windower
from densepack_runtime.serving.tls import Certificate
from densepack_runtime.sessions.fake_session import FakeSession
from tests.command_line import CommandLine
from tests.runtime.serving.running import WAIT_S, running

LAST = Path(__file__).parents[2] / "last_version" / "bundle"


def certificate_in(folder: Path, *key_options: str) -> Certificate:
    folder.mkdir()
    chain, key = folder / "chain.pem", folder / "key.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2"]
    words += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", *(key_options or ["-nodes"])]
    subprocess.run([*words, "-out", str(chain), "-keyout", str(key)], check=True, capture_output=True, timeout=WAIT_S)
    return Certificate(chain, key)


def test_a_client_that_trusts_the_certificate_gets_the_librarys_answer(
    default_tokenizer_json: str, tmp_path: Path
) -> None:
    windower = Windower(default_tokenizer_json, max_length=32, doc_stride=8)
    asked = {"question": "Who built it?", "context": "It was built by Anna Berg."}
    certificate = certificate_in(tmp_path / "own")
    trusting = ssl.create_default_context(cafile=certificate.chain)
    with running(FakeSession(), windower, certificate=certificate) as server:
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=WAIT_S, context=trusting)
        connection.request("POST", "/v1/answer", json.dumps(asked))
        got = json.loads(connection.getresponse().read())
        connection.close()
    best = (
        QuestionAnswerer(FakeSession(), windower).answer(question=asked["question"], context=asked["context"]).as_dict()
    )
    assert {name: got[name] for name in best} == best


def test_files_that_cannot_be_used_are_one_line(densepack: CommandLine, tmp_path: Path) -> None:
    one, other = certificate_in(tmp_path / "one"), certificate_in(tmp_path / "other")
    locked = certificate_in(tmp_path / "locked", "-passout", "pass:secret")
    none = tmp_path / "none.pem"

    def told(*options: object) -> str:
        done = densepack("serve", LAST, "--port", 0, *options)
        assert done.code == 1
        (line,) = done.error_lines
        return line

    assert told("--tls-cert", one.chain) == "error: TLS needs both files: name --tls-cert and --tls-key"
    missing = told("--tls-cert", one.chain, "--tls-key", none)
    assert missing == f"error: {none} cannot be read: No such file or directory"
    for key in (other.key, locked.key, one.chain):
        line = told("--tls-cert", one.chain, "--tls-key", key)
        assert line.startswith(f"error: {one.chain} and {key} are no certificate with its unencrypted key: ")
