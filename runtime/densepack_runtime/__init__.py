"""densepack's production runtime: a bundle in, answers out, without PyTorch.

from densepack_runtime import QuestionAnswerer
with QuestionAnswerer.open("bundle/") as qa:
    print(qa.answer(question="Who is Frederic Chopin?", context="…").text)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from densepack_runtime.bundle import Bundle
    from densepack_runtime.errors import DensepackError
    from densepack_runtime.host.allocator import keep_freed_memory
    from densepack_runtime.question_answering.answers import Answer, SpanRules
    from densepack_runtime.question_answering.pipeline_compat import PipelineRules
    from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
    from densepack_runtime.question_answering.windows import Windower
    from densepack_runtime.sessions.fake_session import FakeSession
    from densepack_runtime.sessions.options import SessionOptions
    from densepack_runtime.sessions.session import Batch, Logits, Session, Window

__all__ = [
    "Answer",
    "Batch",
    "Bundle",
    "DensepackError",
    "FakeSession",
    "Logits",
    "PipelineRules",
    "QuestionAnswerer",
    "Session",
    "SessionOptions",
    "SpanRules",
    "Window",
    "Windower",
    "keep_freed_memory",
]

_MODULES = {
    "Answer": "question_answering.answers",
    "Batch": "sessions.session",
    "Bundle": "bundle",
    "DensepackError": "errors",
    "FakeSession": "sessions.fake_session",
    "Logits": "sessions.session",
    "PipelineRules": "question_answering.pipeline_compat",
    "QuestionAnswerer": "question_answering.question_answerer",
    "Session": "sessions.session",
    "SessionOptions": "sessions.options",
    "SpanRules": "question_answering.answers",
    "Window": "sessions.session",
    "Windower": "question_answering.windows",
    "keep_freed_memory": "host.allocator",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import densepack_runtime` itself costs nothing."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
