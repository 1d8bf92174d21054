"""Does every kind of network become an engine? Builds all of tests/matrix.py with the real parser and builder.

    python benchmarks/engine_matrix.py [--runtime auto|tensorrt|tensorrt-rtx] [--save]

Networks are tiny, so the times say how long a build takes at least. Where no TensorRT can build, one sentence
says so and nothing is measured. --save writes results/engine_matrix.json and .md.
"""

import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from machine import RESULTS, machine, save_result

from ds2_deploy.errors import DS2Error
from ds2_deploy.runtime.engine_info import EngineInfo
from ds2_deploy.runtime.trt import RuntimeChoice, choose
from export.profiles import parse_seconds
from export.to_tensorrt import build_engine

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.matrix import CHOICES, Case, every_case


def built(case: Case, runtime: RuntimeChoice) -> dict[str, Any]:
    """Seconds and bytes of one build, or what stood in its way."""
    stream = case.graph == "stream"
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        case.write(Path(folder))
        exported_s = time.perf_counter() - start
        try:
            path = build_engine(
                folder,
                fp16=case.precision == "fp16",
                stream=stream,
                seconds=[] if stream else [parse_seconds("0:1:2")],
                runtime=runtime,
            )
        except DS2Error as error:
            return {**case._asdict(), "error": str(error).replace(folder, "MODEL")}
        info = EngineInfo.read(path.with_suffix(".json"))
        return {
            **case._asdict(), "export_s": round(exported_s, 2), "build_s": info.build_s, "size_bytes": info.size_bytes
        }  # fmt: skip


def table(rows: list[dict[str, Any]], title: str) -> str:
    """Markdown: builds and medians by each choice, then what failed."""
    failed = [row for row in rows if "error" in row]
    lines = [f"{title}: {len(rows) - len(failed)} of {len(rows)} built.", ""]
    lines += ["| choice | builds | median seconds | median kB |", "|---|---|---|---|"]
    done = [row for row in rows if "error" not in row]
    for name in CHOICES:
        for value, count in Counter(row[name] for row in done).items():
            mine = [row for row in done if row[name] == value]
            seconds = statistics.median(row["build_s"] for row in mine)
            size = statistics.median(row["size_bytes"] for row in mine) / 1000
            lines.append(f"| {name} {value} | {count} | {seconds:.2f} | {size:.0f} |")
    lines += ["", *(f"- {' '.join(row[name] for name in CHOICES)}: {row['error']}" for row in failed)]
    return "\n".join(lines).rstrip() + "\n"


def main(
    runtime: Annotated[str, typer.Option(metavar="auto|tensorrt|tensorrt-rtx")] = "auto",
    save: Annotated[bool, typer.Option("--save", help="Write benchmarks/results/engine_matrix.json and .md.")] = False,
) -> None:
    try:
        title = choose(runtime).title  # type: ignore[arg-type]
    except DS2Error as error:
        print(f"No engine is built: {error}", file=sys.stderr)
        raise typer.Exit(int(runtime != "auto")) from error  # where none was named, none need be here
    rows = []
    for case in every_case():
        rows.append(built(case, runtime))  # type: ignore[arg-type]
        print(*case, rows[-1].get("error", f"{rows[-1].get('build_s')} s"), flush=True)
    text = table(rows, title)
    print(text)
    if save:
        save_result("engine_matrix", {"machine": machine(), "runtime": title, "builds": rows})
        (RESULTS / "engine_matrix.md").write_text(text)
    if any("error" in row for row in rows):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
