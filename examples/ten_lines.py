"""The library: one question, and a stream of them.

python examples/ten_lines.py demo/bundle
"""

import sys

from densepack_runtime import QuestionAnswerer

ROWS = [("Who built it?", "It was built by Anna Berg in 1901."), ("When was it?", "It was built by Anna Berg in 1901.")]

with QuestionAnswerer.open(sys.argv[1]) as qa:
    best = qa.answer(question=ROWS[0][0], context=ROWS[0][1])
    print(f"{best.text!r}, characters {best.start} to {best.end}, score {best.score:.3f}")
    for (question, _), answer in zip(ROWS, qa.answer_many(ROWS), strict=True):
        print(f"{question} {answer.text}")
