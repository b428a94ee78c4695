"""In place of `from transformers import pipeline`, which has no question answering since transformers 5.

    from old_pipeline import pipeline

    qa = pipeline("question-answering", model="demo/bundle")
    qa(question="Who built it?", context="It was built by Anna Berg.")
    # {'score': 0.98, 'start': 16, 'end': 25, 'answer': 'Anna Berg'}, as transformers 4 answered

`model` is what `densepack build CHECKPOINT BUNDLE` wrote. Lists of questions with lists of contexts work, too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from densepack_runtime import Answer, PipelineRules, QuestionAnswerer


def pipeline(task: str, model: str, **settings: Any) -> Callable[..., Any]:
    """`settings` are those of the pipeline: top_k, max_answer_len, handle_impossible_answer, align_to_words."""
    if task != "question-answering":
        raise ValueError(f"a bundle answers questions: the task is 'question-answering', not {task!r}")
    rules = PipelineRules(**settings)
    answerer = QuestionAnswerer.open(model, pipeline_rules=rules)

    def one(question: str, context: str) -> dict[str, Any] | list[dict[str, Any]]:
        asked = {"question": question, "context": context}
        found = [told(answer) for answer in answerer.best_answers(**asked, count=rules.top_k, compat="transformers")]
        return found[0] if rules.top_k == 1 else found

    def call(question: str | Sequence[str], context: str | Sequence[str]) -> Any:
        if isinstance(question, str):
            return one(question, str(context))
        contexts = [context] * len(question) if isinstance(context, str) else context
        return [one(*pair) for pair in zip(question, contexts, strict=True)]

    return call


def told(answer: Answer) -> dict[str, Any]:
    """As the pipeline told it."""
    return {"score": answer.score, "start": answer.start, "end": answer.end, "answer": answer.text}


if __name__ == "__main__":
    qa = pipeline("question-answering", model=sys.argv[1])
    print(qa(question="Who built it?", context="It was built by Anna Berg."))
