"""optimum-onnx: ORTModelForQuestionAnswering, exported by optimum itself, in the pipeline of transformers 4.57.

With --export it writes the ONNX model beside the checkpoint (MODEL.optimum) and ends.
"""

from __future__ import annotations

from pathlib import Path

import onnxruntime
from optimum.onnxruntime import ORTModelForQuestionAnswering
from speed_clock import Predict, arguments, run
from speed_pipeline import answers
from transformers import AutoTokenizer, pipeline


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--export", action="store_true")
    options = parser.parse_args()
    exported = Path(f"{options.model}.optimum")
    if options.export:
        ORTModelForQuestionAnswering.from_pretrained(options.model, export=True).save_pretrained(exported)
        return

    def load() -> Predict:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        model = ORTModelForQuestionAnswering.from_pretrained(exported, session_options=settings)
        tokenizer = AutoTokenizer.from_pretrained(options.model)
        answer = pipeline("question-answering", model=model, tokenizer=tokenizer)
        return lambda dataset: answers(answer, dataset)

    run(options, load)


if __name__ == "__main__":
    main()
