"""densepack as shipped: a bundle, opened by `QuestionAnswerer`; --backend and --precision as on the command line."""

from __future__ import annotations

import warnings

from speed_clock import Predict, arguments, run

from densepack_runtime.host.allocator import keep_freed_memory
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--precision", default="fp32")
    options = parser.parse_args()
    keep_freed_memory()  # as the command `densepack` does

    def load() -> Predict:
        warnings.simplefilter("ignore")  # random weights: the bundle was not checked, and says so
        answerer = QuestionAnswerer.open(
            options.model, backend=options.backend, precision=options.precision, threads=options.threads
        )
        return answerer.predict

    run(options, load)


if __name__ == "__main__":
    main()
