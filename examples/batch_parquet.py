"""Answers to a table of Parquet files, whose other columns come along; run it again where it was stopped.

    pip install 'densepack[cpu,batch]'
    python examples/batch_parquet.py demo/bundle answers

Here the table is made of three rows; for yours only the command counts.
"""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

bundle, out = sys.argv[1], Path(sys.argv[2])
passage = "It was built by Anna Berg in 1901. Her brother painted it."
table = pa.table(
    {
        "key": [1, 2, 3],
        "q": ["Who built it?", "When was it built?", "Who painted it?"],
        "passage": [passage] * 3,
    }
)
corpus = out.with_name(f"{out.name}.corpus")
corpus.mkdir(parents=True, exist_ok=True)
pq.write_table(table, corpus / "part-0.parquet")

columns = ["--question", "q", "--context", "passage", "--id", "key"]
subprocess.run(["densepack", "batch", bundle, corpus, out, *columns], check=True)

for row in pq.read_table(out, columns=["key", "q", "answer", "score"]).to_pylist():
    print(row["key"], row["q"], row["answer"], f"{row['score']:.3f}")
