"""What came of one claim, and the page that all of them are on."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

from mlproject.evaluation.statistics import PairedDifference
from mlproject.tracking import markdown


@dataclass(frozen=True)
class Finding:
    """One claim and what came of it; the texts are Markdown.

    Attributes:
        part: its name among the parts.
        claim: what the paper says.
        verdict: one sentence.
        done: what was run.
        tables: caption and table of each.
        picture: what the figure shows.
        against: what speaks against the verdict, a sentence each.
        minutes: how long it took.
        commit: of the code that ran it.
    """

    part: str
    claim: str
    verdict: str
    done: str
    tables: tuple[tuple[str, str], ...]
    picture: str
    against: tuple[str, ...]
    minutes: float
    commit: str

    def to_json(self) -> str:
        """As text, for the run's artifacts."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote."""
        tree = json.loads(text)
        tables = tuple((caption, table) for caption, table in tree.pop("tables"))
        return cls(**tree | {"tables": tables, "against": tuple(tree["against"])})


def page(
    title: str, about: str, study: Sequence[tuple[str, str]], again: str, findings: Sequence[Finding], figures: str
) -> str:
    """The page of a study, in Markdown.

    Args:
        title: its heading.
        about: what readers must know of the data, in Markdown; nothing if empty.
        study: name and value of what holds for all parts.
        again: how to do it again, in Markdown.
        findings: in their order.
        figures: folder of the figures, PART.png, as seen from the page.
    """
    of_the_data = (" ".join(about.split()),) * bool(about)
    parts = [f"# {title}", *of_the_data, markdown.table(("", ""), study)]
    overview = [(f"{n}. {finding.claim}", finding.verdict) for n, finding in enumerate(findings, start=1)]
    parts.append(markdown.table(("The paper's claim", "What came of it"), overview))
    parts.append(f"**To do it again**\n\n{again}")
    for n, finding in enumerate(findings, start=1):
        tables = ["\n\n".join(filter(None, part)) for part in finding.tables]
        against = "\n".join(f"- {reason}" for reason in (*of_the_data, *finding.against))
        parts += [
            f"## {n}. {finding.claim}",
            f"**{finding.verdict}**",
            f"![{finding.picture}]({figures}/{finding.part}.png)",
            *tables,
            f"**What was run.** {finding.done} {finding.minutes:.0f} minutes; commit {markdown.code(finding.commit)}.",
            f"**What speaks against it**\n\n{against}",
        ]
    return "\n\n".join(parts) + "\n"


def interval(mean: float, low: float, high: float) -> str:
    """A mean with its interval, to three digits."""
    return f"{mean:.3f} ({low:.3f} to {high:.3f})"


def difference_row(name: str, difference: PairedDifference) -> tuple[str, ...]:
    """A paired difference as a row of DIFFERENCE_COLUMNS."""
    return (
        name,
        interval(difference.mean, difference.low, difference.high),
        f"{difference.wilcoxon_p:.2g}",
        f"{difference.corrected_p:.2g}",
        "yes" if difference.significant else "no",
    )


DIFFERENCE_COLUMNS = ("Difference in Dice", "Mean (95 % interval)", "Wilcoxon p", "p, Holm", "Significant")
