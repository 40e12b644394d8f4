"""What came of one claim, and the page that all of them are on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
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
        key: of the settings that it was examined with.
        trainings: minutes of each training that it rests on, by its MLflow run; parts share some.
        measuring: minutes of everything else.
        commits: of the code that trained, and last of that which measured; each once.
    """

    part: str
    claim: str
    verdict: str
    done: str
    tables: tuple[tuple[str, str], ...]
    picture: str
    against: tuple[str, ...]
    key: str = ""
    trainings: Mapping[str, float] = field(default_factory=dict)
    measuring: float = 0
    commits: tuple[str, ...] = ()

    def to_json(self) -> str:
        """As text, for the run's artifacts."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str, key: str) -> Self | None:
        """What `to_json` wrote; None where it was examined with settings of another key."""
        tree = json.loads(text)
        if tree.get("key") != key:
            return None
        tables = tuple((caption, table) for caption, table in tree.pop("tables"))
        return cls(**tree | {"tables": tables} | {name: tuple(tree[name]) for name in ("against", "commits")})


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
            f"**What was run.** {finding.done} {_effort(finding)}",
            f"**What speaks against it**\n\n{against}",
        ]
    return "\n\n".join(parts) + "\n"


def minutes(findings: Sequence[Finding]) -> float:
    """How long all of them took, a training that several rest on counted once."""
    trainings = {run_id: minutes for finding in findings for run_id, minutes in finding.trainings.items()}
    return sum(trainings.values()) + sum(finding.measuring for finding in findings)


def _effort(finding: Finding) -> str:
    count, trained = len(finding.trainings), sum(finding.trainings.values())
    commits = f"commit{'s' * (len(finding.commits) > 1)} {', '.join(map(markdown.code, finding.commits))}"
    return f"{count} trainings of {trained:.1f} minutes in all, and {finding.measuring:.1f} minutes beside; {commits}."


def interval(mean: float, low: float, high: float) -> str:
    """A mean with its interval, to three digits."""
    return f"{mean:.3f} ({low:.3f} to {high:.3f})"


def in_words(difference: PairedDifference) -> str:
    """A mean difference, and whether it is none to rely on."""
    return f"{difference.mean:+.3f}{'' if difference.significant else ' (not significant)'}"


def difference_table(differences: Mapping[str, PairedDifference]) -> str:
    """Named paired differences in Dice, a row each."""
    rows = (
        (
            name,
            interval(difference.mean, difference.low, difference.high),
            f"{difference.wilcoxon_p:.2g}",
            f"{difference.corrected_p:.2g}",
            "yes" if difference.significant else "no",
        )
        for name, difference in differences.items()
    )
    return markdown.table(("Difference in Dice", "Mean (95 % interval)", "Wilcoxon p", "p, Holm", "Significant"), rows)
