"""ds2 doctor: what this machine can run, and why not the rest."""

from typing import Annotated

import typer

from ds2_deploy.commands.common import print_rows


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Tell what this machine can run, and why not the rest."""
    import json

    from ds2_deploy.doctor import examine

    facts = examine()
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    print(
        f"ds2_deploy {facts['ds2_deploy']}, Python {facts['python']}, {facts['platform']}, {facts['cpu_cores']} cores"
    )
    print_rows(
        [(f"{'yes' if check['works'] else 'no ':3} {check['name']}", check["detail"]) for check in facts["checks"]]
    )
    installed = [f"{name} {version}" for name, version in facts["packages"].items() if version]
    absent = [name for name, version in facts["packages"].items() if not version]
    print_rows([("installed", ", ".join(installed)), ("not installed", ", ".join(absent) or "nothing")])
