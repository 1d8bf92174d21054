"""The report as one page: no scripts, nothing from elsewhere, readable on a phone and in print."""

import html
from collections.abc import Iterable, Sequence

from ds2_deploy.bench.plots import pictures
from ds2_deploy.bench.report import Report
from ds2_deploy.bench.tables import TITLES, by_workload, facts, loaded_table, table

STYLE = """
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 75em; padding: 1em; color: #222;
  background: #fff }
h1 { font-size: 1.5em } h2 { font-size: 1.2em; margin-top: 2em }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-size: .85em; white-space: nowrap }
th, td { padding: .25em .7em; text-align: right; border-bottom: 1px solid #ddd }
th { border-bottom: 2px solid #888 } td:first-child, th:first-child { text-align: left; position: sticky; left: 0;
  background: #fff }
.failed { background: #fdecee; border-left: 5px solid #b00020; padding: .5em 1em }
.weak { background: #fff6e0; border-left: 5px solid #d09000; padding: .5em 1em }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26em, 100%), 1fr)); gap: 1.5em }
figure { margin: 0; break-inside: avoid } figcaption { font-weight: 600 } svg { width: 100%; height: auto }
@media print { body { max-width: none; font-size: 10px } .scroll { overflow: visible } table { white-space: normal;
  font-size: 7px } th, td { padding: 1px 3px } td:first-child { position: static } @page { size: landscape } }
"""


def page(report: Report) -> str:
    """Needs matplotlib (the extra `plots`)."""
    sections = [f"<h1>{html.escape(report.model)}: latency</h1>"]
    if report.failed_checks:
        heading = "This report contradicts itself; do not use it."
        sections.append(_box("failed", heading, report.failed_checks))
    if report.weaknesses:
        sections.append(_box("weak", "What to know before believing it", report.weaknesses))
    sections.append(_list(facts(report)))
    shown = "".join(
        f"<figure><figcaption>{html.escape(caption)}</figcaption>{_apart(svg, number)}</figure>"
        for number, (caption, svg) in enumerate(pictures(report))
    )
    sections.append(f'<div class="pictures">{shown}</div>')
    for workload, rows in by_workload(report.rows).items():
        sections.append(f"<h2>{TITLES[workload]}</h2>{_table(table(rows))}")
    sections.append(f"<h2>Loading</h2>{_table(loaded_table(report.loaded))}")
    if report.not_run:
        sections.append(_list(f"Not here: {name}: {why}" for name, why in report.not_run.items()))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(report.model)}: latency</title><style>{STYLE}</style>{''.join(sections)}</html>\n"
    )


def _apart(svg: str, number: int) -> str:
    """Names within a picture are unique in a page, too."""
    return (
        svg.replace('id="', f'id="p{number}-')
        .replace("url(#", f"url(#p{number}-")
        .replace('href="#', f'href="#p{number}-')
    )


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"


def _box(kind: str, heading: str, lines: Iterable[str]) -> str:
    return f'<div class="{kind}"><strong>{html.escape(heading)}</strong>{_list(lines)}</div>'


def _table(lines: Sequence[Sequence[str]]) -> str:
    heading, *rest = lines
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in heading)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in line)}</tr>" for line in rest)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
