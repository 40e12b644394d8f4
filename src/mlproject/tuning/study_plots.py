"""Optuna's plots of a study, interactive and as PNG; for one that cannot be drawn, a sentence that says why."""

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
import optuna
from matplotlib import pyplot
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from optuna import visualization
from optuna.exceptions import ExperimentalWarning

from mlproject.evaluation.figures import to_png
from mlproject.evaluation.palette import BLUE, GREY, ORANGE, VERMILLION
from mlproject.tuning.study_view import finished_trials, name_of_value, parameters, readable_copy, reporting_trials

logger = logging.getLogger(__name__)

COLOURS = {"finished": BLUE, "pruned": ORANGE, "failed": VERMILLION, "running": GREY}
BACKGROUND = "#d8d8d8"  # of parallel coordinates, where the line of the worst trial is nearly white


@dataclass(frozen=True)
class Plot:
    """One plot of a study, or why there is none.

    Attributes:
        name: Of its file, without the ending.
        heading: Its title.
        explanation: How to read it.
        reason: Why it is not drawn; empty if it is, and then the other two hold it.
        html: The interactive plot, a <div>. The first one drawn brings plotly.js, which all need.
        png: The bytes of a PNG file.
    """

    name: str
    heading: str
    explanation: str
    reason: str
    html: str
    png: bytes


@dataclass(frozen=True)
class _Recipe:
    name: str
    heading: str
    explanation: str
    why_not: Callable[[optuna.Study], str]  # empty where Optuna can draw it
    interactive: Callable[[optuna.Study, str], Any]  # the study and the name of its value → a plotly figure
    static: Callable[[optuna.Study, str], None]  # drawn with pyplot


def draw_plots(study: optuna.Study) -> list[Plot]:
    """History, importance, slice, parallel coordinates and intermediate values of a study with one objective.

    The study is only read, and may still run. Its metric name, if it has one, labels the values.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    value_name = name_of_value(study)
    # plotly takes a text for HTML, matplotlib what stands between two dollars for mathematics.
    for_html = readable_copy(study, escape)
    for_png = readable_copy(study, lambda text: text.replace("$", r"\$"))
    plots: list[Plot] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # as all of Optuna's matplotlib plots are
        warnings.filterwarnings("ignore", "Attempting to set identical low and high")  # a parameter with one value
        for recipe in RECIPES:
            html, png = "", b""
            try:
                reason = recipe.why_not(for_png)
                if not reason:
                    png = _to_png(recipe.static, for_png, value_name)
                    html = _to_html(recipe.interactive(for_html, value_name), not any(plot.html for plot in plots))
            except Exception as error:  # a plot must not cost the report of a search of many hours
                logger.warning("the study's plot %s cannot be drawn", recipe.name, exc_info=True)
                reason, png = f"Optuna could not draw it: {type(error).__name__}: {error}", b""
            plots.append(Plot(recipe.name, recipe.heading, recipe.explanation, reason, html, png))
    return plots


def _why_no_history(study: optuna.Study) -> str:
    return "" if finished_trials(study) else "No trial has finished."


def _why_no_slice(study: optuna.Study) -> str:
    finished = finished_trials(study)
    if len(finished) < 2:
        return f"It takes two finished trials, and there {'is one' if finished else 'is none'}."
    return "" if parameters(study) else "The trials have no parameter."


def _why_no_importance(study: optuna.Study) -> str:
    finished = finished_trials(study)
    if reason := _why_no_slice(study):
        return reason
    if len({trial.value for trial in finished}) == 1:
        return f"All {len(finished)} finished trials have the same value."
    if all(len({trial.params.get(name) for trial in finished}) == 1 for name in parameters(study)):
        return "No parameter has two values among the finished trials."
    # Normalised, which is what Optuna draws, importances that are all zero would become equal shares.
    if not sum(optuna.importance.get_param_importances(study, normalize=False).values()) > 0:
        return f"The {len(finished)} finished trials tell no parameter's importance."
    return ""


def _why_no_intermediate_values(study: optuna.Study) -> str:
    return "" if reporting_trials(study) else "No trial has reported an intermediate value."


def _to_html(figure: Any, with_plotly_js: bool) -> str:
    figure.update_layout(
        title=None,
        template="plotly_white",
        font={"family": "system-ui, sans-serif", "size": 14, "color": "#1b1b1b"},
        margin={"t": 60, "r": 20},
        height=480,
    )
    figure.update_xaxes(exponentformat="e")  # 1e-4, not 100μ
    config = {"responsive": True, "displaylogo": False, "showSendToCloud": False}  # nothing leaves the page
    return str(figure.to_html(full_html=False, include_plotlyjs=with_plotly_js, config=config))


def _to_png(draw: Callable[[optuna.Study, str], None], study: optuna.Study, value_name: str) -> bytes:
    """Draw with pyplot, without a window, and leave pyplot's backend, style and figures as they were."""
    backend, figures = matplotlib.get_backend(), set(pyplot.get_fignums())
    pyplot.switch_backend("agg")
    try:
        with pyplot.rc_context({"savefig.bbox": "tight"}):
            draw(study, value_name)
            return to_png(pyplot.gcf())
    finally:
        for number in set(pyplot.get_fignums()) - figures:
            pyplot.close(number)
        pyplot.switch_backend(backend)


def _history_interactive(study: optuna.Study, value_name: str) -> Any:
    return visualization.plot_optimization_history(study, target_name=value_name)


def _history_static(study: optuna.Study, value_name: str) -> None:
    axes = visualization.matplotlib.plot_optimization_history(study, target_name=value_name)
    pyplot.gcf().set_size_inches(8, 5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _importance_interactive(study: optuna.Study, value_name: str) -> Any:
    return visualization.plot_param_importances(study, target_name=value_name)


def _importance_static(study: optuna.Study, value_name: str) -> None:
    axes = visualization.matplotlib.plot_param_importances(study, target_name=value_name)
    pyplot.gcf().set_size_inches(8, 2 + 0.5 * len(parameters(study)))
    axes.legend().remove()  # there is one objective


def _slice_interactive(study: optuna.Study, value_name: str) -> Any:
    figure = visualization.plot_slice(study, target_name=value_name)
    for axis in figure.select_xaxes():  # the name above, for below are the choices, which may be long
        name = {"text": axis.title.text, "x": 0.5, "y": 1, "yanchor": "bottom", "showarrow": False}
        figure.add_annotation(name, xref=axis.plotly_name.replace("axis", "") + " domain", yref="paper")
    return figure.update_xaxes(title=None)


def _slice_static(study: optuna.Study, value_name: str) -> None:
    visualization.matplotlib.plot_slice(study, target_name=value_name)
    figure = pyplot.gcf()
    figure.set_size_inches(3 * len(figure.axes), 5)  # the last is the scale of colours
    figure.suptitle("")
    for axes in figure.axes[:-1]:
        axes.set_title(axes.get_xlabel(), fontsize="medium")  # above, for below are the choices, which may be long
        axes.set_xlabel("")
        axes.tick_params(axis="x", which="both", rotation=30)


def _parallel_interactive(study: optuna.Study, value_name: str) -> Any:
    figure = visualization.plot_parallel_coordinate(study, target_name=value_name)
    names = [value_name, *parameters(study)]
    figure.update_layout(plot_bgcolor=BACKGROUND)
    figure.update_xaxes(ticktext=names)  # Optuna cuts names after 17 letters
    for trace in figure.data[: len(finished_trials(study))]:
        trace.customdata = [[name, value] for name, (_, value) in zip(names, trace.customdata, strict=True)]
    return figure


def _parallel_static(study: optuna.Study, value_name: str) -> None:
    axes = visualization.matplotlib.plot_parallel_coordinate(study, target_name=value_name)
    names = [value_name, *parameters(study)]
    pyplot.gcf().set_size_inches(3 + 2 * len(names), 5)
    axes.set_facecolor(BACKGROUND)
    axes.set_xticks(range(len(names)), names, rotation=20, ha="right")  # Optuna cuts names after 17 letters
    for parameter in pyplot.gcf().axes[2:]:  # behind the axis of the value and the scale of colours
        for label in parameter.get_yticklabels():
            label.set_bbox({"facecolor": BACKGROUND, "alpha": 0.8, "linewidth": 0, "pad": 1})


def _intermediate_interactive(study: optuna.Study, value_name: str) -> Any:
    figure = visualization.plot_intermediate_values(study)
    shown: set[str] = set()
    for trace, trial in zip(figure.data, reporting_trials(study), strict=True):
        state = trial.user_attrs["state"]
        trace.update(
            name=state,
            legendgroup=state,
            legendrank=list(COLOURS).index(state),
            showlegend=state not in shown,
            line_color=COLOURS[state],
            hovertemplate=f"trial {trial.number}, {state}<br>step %{{x}}: %{{y:.4f}}<extra></extra>",
        )
        shown.add(state)
    return figure.update_layout(showlegend=True, xaxis_title="step", yaxis_title=value_name)


def _intermediate_static(study: optuna.Study, value_name: str) -> None:
    axes = visualization.matplotlib.plot_intermediate_values(study)
    states = [trial.user_attrs["state"] for trial in reporting_trials(study)]
    for line, state in zip(axes.lines, states, strict=True):
        line.set_color(COLOURS[state])
    pyplot.gcf().set_size_inches(8, 5)
    axes.set(xlabel="step", ylabel=value_name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    marks = [Line2D([], [], color=colour, label=state) for state, colour in COLOURS.items() if state in states]
    axes.legend(handles=marks, bbox_to_anchor=(1.02, 1), loc="upper left")


RECIPES = (
    _Recipe(
        "history",
        "Optimisation history",
        "The value of each finished trial, and the best so far.",
        _why_no_history,
        _history_interactive,
        _history_static,
    ),
    _Recipe(
        "importance",
        "Parameter importance",
        "How much each parameter decides whether a trial is among the best tenth (PED-ANOVA, Watanabe et al. 2023), "
        "in shares of 1. With fewer than about 20 finished trials it is no more than a hint.",
        _why_no_importance,
        _importance_interactive,
        _importance_static,
    ),
    _Recipe(
        "slice",
        "Slice",
        "The value of each finished trial over one parameter at a time. Darker: a later trial.",
        _why_no_slice,
        _slice_interactive,
        _slice_static,
    ),
    _Recipe(
        "parallel_coordinates",
        "Parallel coordinates",
        "Each line is a finished trial. Darker: a better value.",
        _why_no_slice,
        _parallel_interactive,
        _parallel_static,
    ),
    _Recipe(
        "intermediate_values",
        "Intermediate values",
        "What each trial reported as it went, also where it was pruned or failed later.",
        _why_no_intermediate_values,
        _intermediate_interactive,
        _intermediate_static,
    ),
)
