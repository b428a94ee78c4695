"""A FastAPI endpoint around the pipeline of transformers 4.57, as people write one.

python serve_pipeline.py MODEL PORT --threads 2 [--nn-pruning]
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from speed_pipeline import load_pipeline


class Asked(BaseModel):
    id: int
    question: str
    context: str


def application(answer: Any) -> FastAPI:
    app = FastAPI()

    @app.post("/v1/answer")
    def answer_one(asked: Asked) -> dict[str, Any]:  # not async: FastAPI calls it in a thread of its pool
        return {"id": asked.id} | answer(question=asked.question, context=asked.context)

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("port", type=int)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--nn-pruning", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    answer = load_pipeline(options.model, nn_pruning=options.nn_pruning)
    uvicorn.run(application(answer), host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
