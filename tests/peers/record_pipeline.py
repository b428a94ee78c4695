"""Record what the question-answering pipeline of transformers 4.57 answers, for the tests of `compat="transformers"`.

Runs in an environment of its own (see README.md beside this file), because transformers 5 has no such pipeline:

    python tests/peers/record_pipeline.py CHECKPOINT tests/peers/results/pipeline.json
    python tests/peers/record_pipeline.py CHECKPOINT tests/peers/results/pipeline_roberta.json edges

CHECKPOINT is any question-answering folder that transformers 4 loads. Recorded are the answers and, per window,
the token ids and logits behind them, so that the test needs neither the model nor PyTorch.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from provenance import provenance
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, QuestionAnsweringPipeline

SAMPLE = (
    Path(__file__).resolve().parents[2] / "runtime" / "densepack_runtime" / "question_answering" / "sample_squad.json"
)
# The usage example of the card of madlag/bert-base-uncased-squadv1-x2.44-f87.7-d26-hybrid-filled-v1.
CARD = (
    "Who is Frederic Chopin?",
    "Frédéric François Chopin, born Fryderyk Franciszek Chopin (1 March 1810 – 17 October 1849), was a Polish composer "
    "and virtuoso pianist of the Romantic era who wrote primarily for solo piano.",
)
EDGES = [
    ("Who?", "Ada."),
    ("What is the number?", "42"),
    ("Where is the station?", "駅は東京の中央にあり、港は横浜にある。"),
    ("What did she play?", "She played 🎹🎼 the piano, then the 𝄞 organ, and at last the piano again."),
    ("Who built the naïve model?", "The naïve model was built by Zoë Ångström-Müller's re-founded atelier (Paris)."),
    ("Who won?", "Ann won. Ann won again. ANN won a third time, and ann's sister came second."),
    ("When was it?", "It was in 1990/91, on the 3rd-4th of May, at 5:30p.m., for $1,234.56 or so."),
    ("What is unbelievable?", "Electroencephalographically speaking, antidisestablishmentarianism is unbelievable."),
    ("Who sleeps?", "  The   cat\tsleeps \n\n here ;  the dog doesn't.  "),
    ("מתי הוקם המגדלור?", "הנמל נבנה לפני מאות שנים, והמגדלור הוקם בשנת 1865."),
    ("متى افتتحت المكتبة؟", "تقع المكتبة القديمة في شارع النخيل، وقد افتتحت عام 1924."),
    # Accents as characters of their own, a ligature, a soft hyphen and a zero-width space.
    (
        "Who owns the cafe\u0301?",
        "The cafe\u0301 of Zoe\u0308 Du\u0301ran serves \ufb01ne co\u00adcoa\u200b, says I\u0307brahim.",
    ),
    ("What closes a sentence?", "The mark [SEP] closes a sentence, [MASK] hides a word, and ##ing is half of one."),
    ("Who discovered the ninth moon?", "Bake the bread for forty minutes. Let it cool on a rack."),
    # Long words in a long text: windows begin and end inside words.
    (
        "Where does the ferry call on the seventh day?",
        " ".join(
            f"On day {day} the ferry calls at Llanquillenbrackwater{end}, Grumblethwaitemoorlingen{end} and "
            f"Ostrowickfjordhavnsundet{end}."
            for day, end in enumerate(("by", "haven", "ness", "thorpe", "wick", "dale", "holm") * 3, start=1)
        ),
    ),
    # The same answer in several windows, and in the overlap of two.
    (
        "Who keeps the lighthouse?",
        " ".join(
            f"In year {year} the lighthouse was kept by Ada Morn, and the lamp burned for {year + 40} nights in winter."
            for year in range(1, 31)
        ),
    ),
]
PARAMETERS: list[dict[str, Any]] = [
    {},
    {"top_k": 5},
    {"handle_impossible_answer": True},
    {"top_k": 3, "max_answer_len": 4},
    {"top_k": 4, "align_to_words": False},
    {"top_k": 5, "handle_impossible_answer": True, "max_answer_len": 40},
    {"top_k": 10, "max_answer_len": 1},
]
SAMPLE_STRIDE = 4


class RecordingPipeline(QuestionAnsweringPipeline):
    """Keeps the token ids and logits of every window that the model saw."""

    def _forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
        output = super()._forward(inputs)
        self.windows.append(
            {
                "input_ids": output["input_ids"][0].tolist(),
                "start": [round(value, 5) for value in output["start"][0].tolist()],
                "end": [round(value, 5) for value in output["end"][0].tolist()],
            }
        )
        # What is recorded is what the answers are computed from.
        output["start"] = torch.tensor([self.windows[-1]["start"]])
        output["end"] = torch.tensor([self.windows[-1]["end"]])
        return output


def questions() -> list[tuple[str, str, str]]:
    """(name, question, context): the card's example, edge cases, and every fourth question of the sample set."""
    found = [("card", *CARD), *((f"edge-{number}", *pair) for number, pair in enumerate(EDGES))]
    sample = [
        (entry["id"], entry["question"], paragraph["context"])
        for article in json.loads(SAMPLE.read_text(encoding="utf-8"))["data"]
        for paragraph in article["paragraphs"]
        for entry in paragraph["qas"]
    ]
    return found + sample[::SAMPLE_STRIDE]


def main(checkpoint: str, out: str, only: str = "") -> None:
    """With `only` "edges", the answers to these alone, for a test that has the model."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForQuestionAnswering.from_pretrained(checkpoint, dtype=torch.float32)
    pipe = RecordingPipeline(model=model, tokenizer=tokenizer)
    cases = []
    asked = [one for one in questions() if not only or one[0].startswith("edge")]
    for number, (name, question, context) in enumerate(asked):
        parameters = PARAMETERS[number % len(PARAMETERS)]
        every = PARAMETERS if name == "card" or name.startswith("edge") else [parameters]
        pipe.windows = []
        pipe(question=question, context=context)
        windows = pipe.windows
        answers = []
        for settings in every:
            pipe.windows = []
            found = pipe(question=question, context=context, **settings)
            answers.append({"settings": settings, "answers": found if isinstance(found, list) else [found]})
        case = {"name": name, "runs": answers} | ({} if only else {"windows": windows})
        if not name.startswith("sample"):  # the texts of the sample set are in the sample set
            case |= {"question": question, "context": context}
        cases.append(case)
    document = provenance("torch", "transformers", "tokenizers") | {"checkpoint": Path(checkpoint).name, "cases": cases}
    Path(out).write_text(json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    runs = sum(len(case["runs"]) for case in cases)
    sys.stderr.write(f"recorded {runs} answers to {len(cases)} questions\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
