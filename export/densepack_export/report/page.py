"""The page: everything said about every bundle, in the order in which it is read, and then laid out as HTML.

    html = render(gather([Path("bundle/")]))

All texts are escaped by the template engine; only pictures, which we drew, go in as they are.
"""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from densepack_export.plots.drawing import inlined
from densepack_export.plots.layers import density_plot, heads_plot
from densepack_export.report import model
from densepack_export.report.comparison import Comparison, compare
from densepack_export.report.facts import BundleFacts, ReportFacts
from densepack_export.report.parity import ladder, verdicts, worst_questions
from densepack_export.report.speed import Picture, Speed, speed
from densepack_runtime.host.versions import package_versions

_HINT = "point at or tap a bar to see its matrix; a click keeps it"


def render(facts: ReportFacts) -> str:
    """The whole page as HTML. Raises InputError for a benchmark section that cannot be read."""
    sections = [_section(bundle, f"bundle-{place}") for place, bundle in enumerate(facts.bundles)]
    comparison: Comparison | None = compare(facts) if len(facts.bundles) > 1 else None
    speeds: list[Speed] = [speed(benchmark) for benchmark in facts.benchmarks]
    title = f"{len(sections)} bundles compared" if comparison else facts.bundles[0].model_name
    made_by = f"densepack {package_versions().get('densepack', '')}".rstrip()
    html = (
        _environment()
        .get_template("report.html.j2")
        .render(title=title, sections=sections, comparison=comparison, speeds=speeds, made_by=made_by)
    )
    return "\n".join(line.rstrip() for line in html.splitlines() if line.strip()) + "\n"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("densepack_export.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["svg"] = _svg
    return environment


def _svg(picture: Picture, prefix: str) -> Markup:
    return Markup(inlined(picture.svg, prefix, picture.text))


def _section(facts: BundleFacts, anchor: str) -> dict[str, object]:
    """One bundle as the template wants it; `anchor` is the beginning of all ids in it."""
    parity = facts.parity
    return {
        "anchor": anchor,
        "name": facts.name,
        "chips": verdicts(parity),
        "figures": model.figures(facts),
        "sizes": model.sizes(facts),
        "heads": Picture(heads_plot(facts.structure), "heads that are left and heads that are gone, by layer"),
        "densities": Picture(
            density_plot(facts.structure, facts.matrices, _HINT), "non-zero weights of every matrix, by layer"
        ),
        "layers": model.layers(facts),
        "ladder": ladder(parity) if parity else None,
        "failures": parity.failures if parity else [],
        "not_run": [rung.name for rung in parity.rungs if rung.status == "not run"] if parity else [],
        "worst": worst_questions(parity, facts.gold) if parity else [],
        "has_gold": bool(facts.gold),
        "origin": model.origin(facts),
        "engines": model.engines(facts),
        "files": model.files(facts),
        "commands": model.commands(facts),
    }
