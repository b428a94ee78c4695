"""The words of a model card: Markdown, with the metadata block that the Hugging Face hub reads.

card = model_card(facts, CardChoices(title="…", license="cc-by-sa-4.0"), pictures)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from huggingface_hub import EvalResult, ModelCardData

from densepack_export.card.facts import CardFacts, Evaluation

# Where the example of use expects the bundle; a test runs it as it stands.
BUNDLE = "bundle"


def usage(bundle: str) -> str:
    """The example of use, with what a bundle is opened by."""
    return f"""from densepack_runtime import QuestionAnswerer

with QuestionAnswerer.open("{bundle}") as qa:
    answer = qa.answer(
        question="Who built the lighthouse?",
        context="The lighthouse on the northern cape was built by Marta Lindqvist in 1887.",
    )
    print(answer.text, answer.start, answer.end, answer.score)
"""


@dataclass(frozen=True, slots=True)
class CardChoices:
    """What nobody can read off a checkpoint. `about` is a paragraph in the author's own words."""

    title: str
    license: str | None = None
    about: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture beside the card, its section, and what it shows for those who cannot see it."""

    file: str
    section: str
    text: str


def model_card(facts: CardFacts, choices: CardChoices, pictures: Sequence[Picture]) -> str:
    """The whole file. Sections about what was not measured are left out."""
    sections = (
        ("", _introduction(facts, choices)),
        ("Results", _results(facts)),
        ("What is left", _sizes(facts)),
        ("Speed", _speed(facts)),
        ("How it was made", _training(facts)),
        ("The family", _family(facts)),
        ("Other densities", _trade_offs(facts)),
        ("Use", _usage(facts)),
    )
    parts = [f"---\n{metadata(facts, choices).to_yaml()}\n---\n\n# {choices.title}"]
    for name, text in sections:
        if text:
            shown = [f"![{picture.text}]({picture.file})" for picture in pictures if picture.section == name]
            parts += [*([f"## {name}"] if name else []), text, *shown]
    return "\n\n".join(parts) + "\n"


def metadata(facts: CardFacts, choices: CardChoices) -> ModelCardData:
    """What the hub reads: task, data, licence, and the scores as a model index."""
    scores = facts.evaluation
    results = (
        [
            EvalResult(
                task_type="question-answering",
                dataset_type="squad",
                dataset_name=scores.squad,
                dataset_split="validation",
                metric_type=metric,
                metric_value=value,
            )
            for metric, value in (("exact_match", scores.exact_match), ("f1", scores.f1))
        ]
        if scores
        else None
    )
    return ModelCardData(
        language="en",
        license=choices.license,
        library_name="densepack",
        pipeline_tag="question-answering",
        datasets=["squad"],
        tags=[facts.checkpoint.family.model_type, "question-answering", "pruning", _method(facts)],
        model_name=choices.title if results else None,
        eval_results=results,
    )


def _method(facts: CardFacts) -> str:
    """How it was pruned: as the published models, unless its history says that `shrink` did it alone."""
    commands = {stage["command"] for stage in facts.stages}
    return "second-order-pruning" if "shrink" in commands and "prune" not in commands else "block-movement-pruning"


def _introduction(facts: CardFacts, choices: CardChoices) -> str:
    structure = facts.inspection.structure
    heads = structure.heads_total - structure.heads_left
    text = (
        f"A {facts.checkpoint.family.architecture} of {structure.num_layers} layers of {structure.hidden_size}, "
        f"pruned: {100 * structure.linear_density:.1f} % of the linear weights are left, {heads} of "
        f"{structure.heads_total} heads are gone. Packed dense it has {structure.parameters:,} of "
        f"{structure.dense().parameters:,} parameters."
    )
    return f"{choices.about.strip()}\n\n{text}" if choices.about.strip() else text


def _results(facts: CardFacts) -> str:
    scores, original = facts.evaluation, facts.original
    if scores is None:
        return ""
    rows = [("this model", *_scores(scores))]
    if original is not None:
        rows.insert(0, ("the model it was made from", *_scores(original)))
        rows.append(("change", f"{scores.exact_match - original.exact_match:+.2f}", f"{scores.f1 - original.f1:+.2f}"))
    what = f"On {scores.squad} ({scores.count:,} questions, windows of 384 tokens with 128 in common):"
    return f"{what}\n\n{table(('', 'EM', 'F1'), rows)}"


def _scores(scores: Evaluation) -> tuple[str, str]:
    return f"{scores.exact_match:.2f}", f"{scores.f1:.2f}"


def _sizes(facts: CardFacts) -> str:
    structure = facts.inspection.structure
    dense = structure.dense()
    rows = [
        ("parameters", f"{dense.parameters:,}", f"{structure.parameters:,}"),
        ("linear weights", f"{dense.linear_weights:,}", f"{structure.linear_weights:,}"),
        ("heads", f"{structure.heads_total}", f"{structure.heads_left}"),
        ("FFN units", f"{dense.units_left:,}", f"{structure.units_left:,}"),
        ("FLOPs of a window of 384 tokens", *(f"{one.cost.flops(384) / 1e9:.2f} G" for one in (dense, structure))),
    ]
    layers = [
        (str(index), " ".join(map(str, layer.heads)) or "none", str(layer.ffn_units))
        for index, layer in enumerate(facts.inspection.layers)
    ]
    stored = f"The file holds {facts.inspection.parameters_stored:,} parameters in {facts.file_bytes / 1e6:.1f} MB."
    return "\n\n".join(
        (table(("", "dense", "packed"), rows), stored, table(("layer", "heads left", "FFN units left"), layers))
    )


def _speed(facts: CardFacts) -> str:
    if facts.benchmark is None:
        return ""
    found = [(f"{row['batch']} x {row['length']}", row) for row in facts.benchmark["ratios"]]
    if "squad" in facts.benchmark:
        squad = facts.benchmark["squad"]
        found += [(f"{squad['file']}, {squad['questions']:,} questions", row) for row in squad["ratios"]]
    rows = [
        (
            what,
            f"{row['side']} against {row['base']}",
            f"{row['median']:.2f}",
            f"{row['min']:.2f} to {row['max']:.2f}",
            f"{row['flop_limit']:.2f}",
        )
        for what, row in found
    ]
    where = facts.benchmark["hardware"]
    versions = facts.benchmark["versions"]
    names = [f"{name} {versions[name]}" for name in ("onnxruntime", "openvino", "torch") if versions.get(name)]
    told = f"Measured with `densepack bench` on {where['cores']} cores of {where['processor']}, {', '.join(names)}:"
    return f"{told}\n\n{table(('windows x tokens, or file', 'sides', 'times as fast', 'range', 'FLOP limit'), rows)}"


def _training(facts: CardFacts) -> str:
    if not facts.stages:
        return ""
    commands = "\n".join(stage["command_line"] for stage in facts.stages if stage.get("command_line"))
    rows = []
    for stage in facts.stages:
        result = stage.get("result", {})
        left = result.get("linear_density")
        rows.append(
            (
                stage["command"],
                f"{stage['steps']:,}" if stage.get("steps") else "",  # a cut takes none
                f"{stage['questions']:,}",
                "" if left is None else f"{100 * left:.1f} %",
                "" if result.get("heads") is None else str(result["heads"]),
            )
        )
    told = table(("stage", "steps", "questions", "linear weights left", "heads left"), rows)
    teacher = facts.stages[-1].get("teacher")
    who = "Every" if all(stage.get("teacher") for stage in facts.stages) else "The last"
    loss = f"{who} stage learnt from the teacher `{teacher['source']}` and from the answers.\n\n" if teacher else ""
    shown = f"```sh\n{commands}\n```\n\n" if commands else ""
    logs = "Logs: [training_log.csv](training_log.csv); every" if facts.log else "Every"
    log = f"{logs} setting: [training.json](training.json)."
    return f"{loss}{shown}{told}\n\n{log}"


def _family(facts: CardFacts) -> str:
    """What was cut from one measurement of the same model, as the last stage that has made several tells."""
    families = [stage["result"]["family"] for stage in facts.stages if stage.get("result", {}).get("family")]
    rows = [
        (
            member["name"],
            f"{100 * member['linear_density']:.1f} %",
            str(member["heads"]),
            f"{member['predicted_loss']:.4f}",
            "" if member["speedup"] is None else f"{member['speedup']:.2f}",
        )
        for member in (families[-1] if families else ())
    ]
    columns = ("", "linear weights left", "heads left", "predicted loss of a window, when cut", "times as fast")
    return table(columns, rows) if rows else ""


def _trade_offs(facts: CardFacts) -> str:
    rows = [
        (
            point.name,
            f"{100 * point.linear_density:.1f} %",
            str(point.heads),
            f"{point.exact_match:.2f}",
            f"{point.f1:.2f}",
            "" if point.speed_up is None else f"{point.speed_up:.2f}",
            "" if point.questions is None else f"{point.questions:,}",
        )
        for point in facts.trade_offs
    ]
    columns = ("", "linear weights left", "heads left", "EM", "F1", "times as fast", "questions scored")
    return table(columns, rows) if rows else ""


def _usage(facts: CardFacts) -> str:
    return (
        f"Build a bundle (ONNX, FP16, a TensorRT plan, all checked), then answer from it without PyTorch:\n\n"
        f"```sh\ndensepack build {facts.folder.resolve().name} {BUNDLE}\n```\n\n```python\n{usage(BUNDLE)}```"
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
