"""LitServe around a session of densepack: `answer_many` over what LitServe gathers in a batch.

python serve_litserve.py BUNDLE PORT --threads 2 [--batch 16]
"""

from __future__ import annotations

import argparse
from typing import Any

import litserve

from densepack_runtime.host.allocator import keep_freed_memory
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer

# How long a batch waits to be filled; with 64 clients it hardly ever has to.
BATCH_TIMEOUT_S = 0.01


class Answers(litserve.LitAPI):  # type: ignore[misc]
    def __init__(self, bundle: str, threads: int, batch: int) -> None:
        super().__init__(max_batch_size=batch, batch_timeout=BATCH_TIMEOUT_S, api_path="/v1/answer")
        self._bundle, self._threads = bundle, threads

    def setup(self, device: str) -> None:
        keep_freed_memory()  # as the command `densepack` does
        self._answerer = QuestionAnswerer.open(self._bundle, precision="fp32", threads=self._threads)

    def batch(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return list(inputs)

    def predict(self, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
        answers = self._answerer.answer_many((one["question"], one["context"]) for one in asked)
        return [{"id": one["id"]} | answer.as_dict() for one, answer in zip(asked, answers, strict=True)]

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("port", type=int)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()
    server = litserve.LitServer(
        Answers(options.bundle, options.threads, options.batch), accelerator="cpu", workers_per_device=1, timeout=600
    )
    server.run(host="127.0.0.1", port=options.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
