"""The report of a run: one HTML file that needs nothing else."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from nasvid.host.files import atomic_path
from nasvid.host.words import counted
from nasvid.report import importance, ranking, search_figures, training_figures, views
from nasvid.report.canvas import Style, kind_of, legend_cell
from nasvid.report.clips import embedded, missing
from nasvid.report.collect import RunData, collect
from nasvid.report.colours import STOPS, CostColours, cost_metric, ramp
from nasvid.report.goals import label
from nasvid.report.picture import picture
from nasvid.report.words import headline, quantity

REPORT = "report.html"
SCRIPTS = ("figures.js", "videos.js", "tables.js", "compare.js")


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run's folder; the page says what does not exist yet.

    The page makes no requests: styles, scripts, figures and videos are embedded, and its content
    security policy forbids anything else.

    Returns:
        The path of the page.

    Raises:
        UserError: it is not a run folder, or a file in it is damaged.
    """
    page = render(collect(run_dir))
    target = run_dir / REPORT
    content = page.encode()
    with atomic_path(target, needed=len(content)) as temporary:
        temporary.write_bytes(content)
    return target


def render(run: RunData) -> str:
    """Return the page of a run."""
    environment = Environment(
        loader=PackageLoader("nasvid.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pictures = embedded(run)
    return environment.get_template("template.html.j2").render(
        run=run,
        version=version("nasvid"),
        style=_inline("style.css"),
        scripts=[_inline(name) for name in SCRIPTS],
        plotly=Markup(get_plotlyjs()),
        ramp=STOPS,
        headline=headline(run),
        facts=views.facts(run),
        stages=views.stages(run),
        samples=views.samples(run, pictures),
        not_shown=len(missing(run, pictures)),
        fronts=search_figures.fronts(run),
        objectives=views.objectives(run),
        front_lead=views.front_lead(run),
        progress=search_figures.search_progress(run),
        training=training_figures.training(run),
        roles={role: ramp(place) for role, place in training_figures.ROLES.items()},
        optimizer=training_figures.optimizer(run),
        bad_steps=run.steps.skipped.total(),
        cards=_cards(run),
        legend=_legend(run),
        label=label,
        counted=counted,
        table=views.table(run),
        notes=views.notes(run),
        recovered=views.recovered(run),
        finetuned=views.finetuned(run),
        ranking={
            "lead": ranking.lead(run),
            "figure": ranking.figure(run),
            "correlations": ranking.correlations(run),
            "statistics": ranking.STATISTICS.values(),
            "estimates": ranking.estimates(run),
            "heads": ranking.HEADS,
            "rows": ranking.rows(run),
        }
        if run.ranking
        else None,
        importance={"lead": importance.lead(run), "figures": importance.figures(run)}
        if run.importance
        else None,
        start=views.start(run),
        page=views.page(run),
        skipped=views.skipped(run),
        cost_name={"macs": "MACs", "params": "parameters", None: "cost"}[cost_metric(run)],
    )


def _cards(run: RunData) -> list[dict[str, Any]]:
    style, colours = Style.of(run.choices, run.layout), CostColours(run)
    return [
        {
            "member": member,
            "colour": colours(member.metrics),
            "picture": Markup(picture(member.evaluation.arch, style)) if run.choices else None,
            "params": quantity(member.metrics["params"]) if "params" in member.metrics else None,
            "share": views.share(run, member),
            "command": views.command(run, member),
        }
        for member in run.members
    ]


def _legend(run: RunData) -> list[tuple[str, Markup]]:
    kinds = Style.of(run.choices, run.layout).kinds.values()
    cells = {kind_of(kind.name): Markup(legend_cell(kind, on=True)) for kind in kinds}
    return list(cells.items())


def _inline(name: str) -> Markup:
    return Markup((Path(__file__).parent / name).read_text(encoding="utf-8"))
