"""What was said against what was heard, word by word or character by character: for terminals, pipes and browsers."""

import html
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from ds2_deploy.evaluation import Evaluation, Group, Scored
from ds2_deploy.metrics import align_tokens
from ds2_deploy.text.languages import Language, language_named


class Difference(NamedTuple):
    """A run of words, or characters, that were said, heard, or both."""

    said: str
    heard: str

    @property
    def is_right(self) -> bool:
        return self.said == self.heard


def differences(scored: Scored, language: Language) -> list[Difference]:
    """Runs of right words and runs of errors in turn."""
    expected, heard = language.units(scored.reference.text), language.units(scored.hypothesis)
    pairs = [
        ("" if i is None else expected[i], "" if j is None else heard[j]) for i, j in align_tokens(expected, heard)
    ]
    found = []
    for _, run in groupby(pairs, key=lambda pair: pair[0] == pair[1]):
        said, told = zip(*run, strict=True)
        found.append(Difference(*(language.unit_separator.join(filter(None, side)) for side in (said, told))))
    return found


Mark = Callable[[str], str]


def marked(found: Iterable[Difference], separator: str, missed: Mark, made_up: Mark, plain: Mark = str) -> str:
    """In a line: what was said and not heard marked by `missed`, what was heard and not said by `made_up`."""
    words = []
    for said, heard in found:
        if said == heard:
            words.append(plain(said))
            continue
        words += [missed(said)] if said else []
        words += [made_up(heard)] if heard else []
    return separator.join(words)


def for_pipe(found: Iterable[Difference], separator: str) -> str:
    """As wdiff marks it."""
    return marked(found, separator, lambda said: f"[-{said}-]", lambda heard: f"{{+{heard}+}}")


def for_terminal(found: Iterable[Difference], separator: str) -> str:
    """Red and struck out what was missed, green what was made up."""
    return marked(found, separator, lambda said: f"\x1b[31;9m{said}\x1b[0m", lambda heard: f"\x1b[32m{heard}\x1b[0m")


def worst(scored: Sequence[Scored], most: int, language: Language) -> list[Scored]:
    """The recordings with errors, most wrong words, or characters, first."""

    def order(s: Scored) -> tuple[int, float, str]:
        return -s.errors.counted(language.metric)[0], -s.errors.rate(language.metric), str(s.reference.path)

    return sorted((s for s in scored if s.errors.rate(language.metric)), key=order)[:most]


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } th, td { padding: .2em .8em; text-align: right }
th { border-bottom: 1px solid #888 } td:first-child, th:first-child, td.text { text-align: left }
del { color: #b00020; background: #fdecee } ins { color: #0a6b2c; background: #e8f6ec; text-decoration: none }
pre { background: #f5f5f5; padding: .8em; white-space: pre-wrap }
"""


def write_html(path: Path, title: str, evaluation: Evaluation, scored: Sequence[Scored]) -> None:
    """One file, without scripts or anything from elsewhere: the figures, the breakdowns, every error."""
    language = language_named(evaluation.language)
    sections = [f"<pre>{html.escape(evaluation.summary())}</pre>"]
    for name, groups in (("Speaker", evaluation.speakers), ("Length", evaluation.lengths)):
        if groups:
            rows = (group_row(group, language) for group in groups)
            sections.append(_table((name, *group_columns(language)), rows))
    spoken = evaluation.language.partition("-")[0]
    wrong = [
        f"<tr><td>{html.escape(s.reference.path.name)}</td>"
        f"<td>{'/'.join(map(str, s.errors.counted(language.metric)))}</td>"
        f'<td class="text" lang="{spoken}">{_html(differences(s, language), language.unit_separator)}</td></tr>'
        for s in worst(scored, len(scored), language)
    ]
    key = "<p><del>said and not heard</del> <ins>heard and not said</ins></p>"
    sections.append(
        f"<h2>{len(wrong)} of {len(scored)} recordings with errors</h2>{key}<table><tr><th>Recording</th>"
        f'<th>{language.unit.capitalize()} wrong</th><th class="text">Text</th></tr>{"".join(wrong)}</table>'
    )
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>{''.join(sections)}</html>\n"
    )
    path.write_text(page, encoding="utf-8", errors="backslashreplace")


def group_columns(language: Language) -> tuple[str, ...]:
    """The language's own error rate, then the other."""
    return "recordings", language.metric, f"{language.unit} wrong", _other_rate(language)


def group_row(group: Group, language: Language) -> tuple[str, ...]:
    own, other = (
        f"{group.errors.rate(metric):.2%}" if group.errors.counted(metric)[1] else "-"  # a text without words has none
        for metric in (language.metric, _other_rate(language))
    )
    wrong = "{} of {}".format(*group.errors.counted(language.metric))
    return group.name, str(group.utterances), own, wrong, other


def _other_rate(language: Language) -> str:
    return "WER" if language.metric == "CER" else "CER"


def _html(found: Iterable[Difference], separator: str) -> str:
    return marked(
        found,
        separator,
        lambda t: f"<del>{html.escape(t)}</del>",
        lambda t: f"<ins>{html.escape(t)}</ins>",
        html.escape,
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    heading = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    return f"<table><tr>{heading}</tr>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"
