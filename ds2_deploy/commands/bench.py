"""ds2 bench: how fast a model is here, by every backend; ds2 bench-compare: two such reports."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ds2_deploy.commands.common import (
    INTERRUPTED,
    Device,
    path_argument,
    path_option,
    print_columns,
    print_failure,
    usage_errors,
)

if TYPE_CHECKING:
    from ds2_deploy.bench.report import Report

WORKLOADS = ("utterance", "batch", "load", "stream")


def bench(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A bundled model or a model folder.")],
    backend: Annotated[
        list[str] | None,
        typer.Option(
            metavar="onnxruntime|tensorrt|torch",
            help="Measure this one; may be given often. Without it, every one that works here.",
        ),
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option(metavar="fp32|fp16", help="Without it, both where the model has them.")
    ] = None,
    device: Device = "auto",
    out: Annotated[
        Path | None,
        path_option(help="Folder for bench.json, .csv, .md and .html; MODEL's own lets --backend auto go by it."),
    ] = None,
    audio: Annotated[
        Path | None, path_option(help="A manifest, folder or file to measure with; without it, generated sound.")
    ] = None,
    recordings: Annotated[int, typer.Option(min=1, help="At most so many of them.")] = 40,
    workload: Annotated[
        list[str] | None, typer.Option(metavar="|".join(WORKLOADS), help="Only this; may be given often.")
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Recordings together; default 1, 8, 32.")] = None,
    seconds: Annotated[list[float] | None, typer.Option(min=0.1, help="Of audio each; default 2, 5, 15.")] = None,
    streams: Annotated[list[int] | None, typer.Option(min=1, help="At once; default 1, 4, 16, 64.")] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, max=1e5, help="Arrivals per second of the load test.")
    ] = None,
    cell_seconds: Annotated[float, typer.Option(min=0.05, help="So long each backend runs in each cell.")] = 3.0,
    load_seconds: Annotated[
        float | None, typer.Option(min=0.5, help="Of arrivals in the load test; default 15.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns in which the backends follow each other.")] = 5,
    threads: Annotated[int | None, typer.Option(min=1, max=256, help="CPU threads; without it, one per core.")] = None,
) -> None:
    """Measure every backend, side by side.

    Latency, throughput, memory and parity. Each backend runs in a process of its own, all take turns, and the report
    checks itself: exit code 1 where its figures contradict each other. Prints Markdown; --out writes it with JSON, CSV
    and a page with pictures.
    """
    from ds2_deploy.bench.plan import BATCHES, LOAD_S, SECONDS, STREAMS, Plan
    from ds2_deploy.bench.run import Asked, run
    from ds2_deploy.bench.tables import markdown
    from ds2_deploy.errors import BenchError
    from ds2_deploy.files import check_output_folder
    from ds2_deploy.model_folder import PRECISIONS
    from ds2_deploy.runtime import check_backend
    from ds2_deploy.runtime.devices import cpu_cores

    for name in workload or []:
        if name not in WORKLOADS:
            raise typer.BadParameter(f"There is no workload {name!r}: choose {', '.join(WORKLOADS)}.")
    for option, given, needs in (
        ("--batch", batch, "batch"),
        ("--seconds", seconds, "batch"),
        ("--streams", streams, "stream"),
        ("--rate", rate, "load"),
        ("--load-seconds", load_seconds, "load"),
    ):
        if given and needs not in (workload or WORKLOADS):
            raise typer.BadParameter(f"{option} is for the workload {needs}: add --workload {needs}.")
    for name in precision or []:
        if name not in PRECISIONS:
            raise typer.BadParameter(f"There is no precision {name!r}: choose {' or '.join(PRECISIONS)}.")
    with usage_errors():
        for name in backend or []:
            check_backend(name)
    plan = Plan(
        workloads=tuple(workload or WORKLOADS),  # type: ignore[arg-type]
        batches=tuple(dict.fromkeys(batch or BATCHES)),
        seconds=tuple(dict.fromkeys(seconds or SECONDS)),
        streams=tuple(dict.fromkeys(streams or STREAMS)),
        rate=rate,
        cell_s=cell_seconds,
        rounds=rounds,
        load_s=load_seconds or LOAD_S,
    )
    if out:
        check_output_folder(out)
    asked = Asked(
        model, tuple(dict.fromkeys(backend or ())), tuple(precision or ()), device, threads or cpu_cores(), audio,
        recordings, shlex.join(["ds2", *sys.argv[1:]]),
    )  # fmt: skip
    try:
        report, ended = run(asked, plan, _tell)
    except KeyboardInterrupt:
        _tell("")
        print_failure("Interrupted before anything was measured: there is no report.")
        raise typer.Exit(INTERRUPTED) from None
    typer.echo(markdown(report), nl=False)
    if out:
        write(report, out)
    if isinstance(ended, KeyboardInterrupt):
        raise typer.Exit(INTERRUPTED)
    if ended:
        raise BenchError(report.weaknesses[0])
    if report.failed_checks:
        raise BenchError(f"The report contradicts itself in {len(report.failed_checks)} places: see its top.")


def _tell(what: str) -> None:
    """On a terminal, what is being measured."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what} ", end="", file=sys.stderr, flush=True)


def write(report: "Report", out: Path) -> None:
    """The four files; the page only where matplotlib is installed."""
    from ds2_deploy.bench.page import page
    from ds2_deploy.bench.tables import comma_separated, markdown
    from ds2_deploy.errors import MissingPackageError
    from ds2_deploy.files import atomic_path
    from ds2_deploy.model_folder import BENCH_FILE

    files = {BENCH_FILE: report.to_json().decode(), "bench.csv": comma_separated(report), "bench.md": markdown(report)}
    try:
        files["bench.html"] = page(report)
    except MissingPackageError as error:
        typer.echo(f"ds2: no page: {error}", err=True)
    for name, content in files.items():
        with atomic_path(out / name) as temporary:
            temporary.write_text(content, encoding="utf-8", newline="\n")


def bench_compare(
    before: Annotated[Path, path_argument(metavar="A.json")],
    after: Annotated[Path, path_argument(metavar="B.json")],
    fail_over: Annotated[
        float | None,
        typer.Option(min=0, metavar="PERCENT", help="Exit code 1 where a median grew by more, beyond chance."),
    ] = None,
) -> None:
    """Compare two bench reports.

    Ratios of the medians, B by A, with their 95% intervals, and what changed around them.
    """
    from ds2_deploy.bench.compare import compare
    from ds2_deploy.bench.report import Report
    from ds2_deploy.bench.tables import number
    from ds2_deploy.errors import BenchError

    first, second = Report.read(before), Report.read(after)
    found = compare(first, second)
    if not found.changes:
        why = "lost requests in all the rows they have in common" if found.lost else "have no row in common"
        raise BenchError(f"{before} and {after} {why}: there is nothing to compare.")
    print_columns(
        ("what", "A ms", "B ms", "B / A", "95% interval"),
        [
            (
                f"{c.after.name}, {c.after.workload}, {c.after.cell}",
                number(c.before.latency.p50),
                number(c.after.latency.p50),
                f"{c.ratio:.3f}",
                f"{c.low:.3f} to {c.high:.3f}",
            )
            for c in found.changes
        ],
    )
    for line in found.environment:
        print(line)
    for name, rows in (("A", found.only_before), ("B", found.only_after)):
        if rows:
            print(f"only in {name}: {len(rows)} rows, such as {rows[0].name}, {rows[0].workload}, {rows[0].cell}")
    if found.lost:
        row = found.lost[0][1]
        print(f"not compared, for requests were lost: {len(found.lost)} rows, such as {row.name}, {row.cell}")
    for name, report in (("A", first), ("B", second)):
        if report.failed_checks or report.partial:
            print(f"{name} {'contradicts itself' if report.failed_checks else 'was interrupted'}: see its top.")
    slower = [c for c in found.changes if fail_over is not None and c.is_slower(fail_over)]
    if slower:
        worst = max(slower, key=lambda c: c.ratio)
        raise BenchError(
            f"{len(slower)} of {len(found.changes)} medians grew by more than {fail_over:g}%, most of all "
            f"{worst.after.name}, {worst.after.workload}, {worst.after.cell}: {worst.ratio - 1:+.1%}."
        )
    overrun = [b for a, b in found.lost if fail_over is not None and not a.lost]
    if overrun:
        raise BenchError(f"B lost requests where A lost none, such as {overrun[0].name}, {overrun[0].cell}.")
