"""Plain PyTorch with transformers' own module, as one would write it: batches of 8 windows, padded to the longest.

With --compile through torch.compile, with --bf16 in bfloat16 (autocast).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from speed_clock import Predict, arguments, run
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from densepack_runtime.question_answering.squad import SquadDataset, SquadQuestion

BATCH, LENGTH, STRIDE, LONGEST_ANSWER = 8, 384, 128, 30


class Answerer:
    """The best span of every question over its windows."""

    def __init__(self, model: Any, tokenizer: Any, *, bf16: bool) -> None:
        self.model, self.tokenizer, self.bf16 = model, tokenizer, bf16

    def __call__(self, dataset: SquadDataset) -> dict[str, str]:
        best: dict[str, tuple[float, str]] = {}
        for first in range(0, len(dataset.questions), BATCH):
            self._answer(dataset.questions[first : first + BATCH], best)
        return {name: text for name, (_, text) in best.items()}

    def _answer(self, questions: Any, best: dict[str, tuple[float, str]]) -> None:
        windows = self.tokenizer(
            [question.question for question in questions],
            [question.context for question in questions],
            truncation="only_second",
            max_length=LENGTH,
            stride=STRIDE,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            padding=True,
            return_tensors="pt",
        )
        inputs = {name: windows[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            out = self.model(**inputs)
        starts, ends = out.start_logits.float().numpy(), out.end_logits.float().numpy()
        for row, number in enumerate(windows["overflow_to_sample_mapping"].tolist()):
            inside = np.array([part == 1 for part in windows.sequence_ids(row)])
            question: SquadQuestion = questions[number]
            found = _best_span(starts[row], ends[row], inside, windows["offset_mapping"][row].numpy(), question.context)
            if question.id not in best or found[0] > best[question.id][0]:
                best[question.id] = found


def _best_span(start: Any, end: Any, inside: Any, offsets: Any, context: str) -> tuple[float, str]:
    """Score and text of the best span of a window: logits [S], `inside` the context, offsets [S, 2]."""
    pairs = np.where(inside, start, -np.inf)[:, None] + np.where(inside, end, -np.inf)[None, :]
    pairs = np.where(np.tri(len(start), k=-1, dtype=bool), -np.inf, pairs)
    pairs = np.where(np.tri(len(start), k=-LONGEST_ANSWER, dtype=bool).T, -np.inf, pairs)
    first, last = np.unravel_index(pairs.argmax(), pairs.shape)
    return float(pairs[first, last]), context[offsets[first, 0] : offsets[last, 1]]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    def load() -> Predict:
        model = AutoModelForQuestionAnswering.from_pretrained(options.model).eval()
        tokenizer = AutoTokenizer.from_pretrained(options.model)
        return Answerer(torch.compile(model, dynamic=True) if options.compile else model, tokenizer, bf16=options.bf16)

    run(options, load)


if __name__ == "__main__":
    main()
