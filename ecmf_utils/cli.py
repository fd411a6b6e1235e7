"""The command `ecmf`: run a notebook, reproduce a profile, verify its figures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import cells, params, pipeline
from .paths import EcmfError, show

EXAMPLES = """examples:
  ecmf reproduce demo
  ecmf reproduce folder --set source=DIR
  ecmf run 22_extract_scene --profile demo --set pooling=mean+std
  ecmf verify demo
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 when all went well, 1 when something failed, 2 when it was refused."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except EcmfError as error:
        print(f"ecmf: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _run(options: argparse.Namespace) -> int:
    from . import runner

    return runner.run(options.notebook, options.profile, options.set)


def _reproduce(options: argparse.Namespace) -> int:
    from . import workflow

    return workflow.reproduce(options.profile, options.set, options.cores, options.dry_run)


def _verify(options: argparse.Namespace) -> int:
    from . import report

    params.load_profile(options.profile)
    moved = report.verify(options.profile)
    for line in moved:
        print(line)
    print(f"{options.profile}: {len(moved)} figures moved" if moved else f"{options.profile}: ok")
    return 1 if moved else 0


def _index(options: argparse.Namespace) -> int:
    from . import report

    params.load_profile(options.profile)
    print(f"Report: {show(report.build_index(options.profile))}")
    return 0


def _list(options: argparse.Namespace) -> int:
    print("notebooks")
    for name in cells.notebook_names():
        step = pipeline.STEPS.get(name)
        print(f"  {name:<20} {step.title if step else ''}")
    print("profiles")
    for name in params.profile_names():
        print(f"  {name:<20} {params.load_profile(name)['description']}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ecmf",
        description="Reproducible multimodal emotion recognition, notebook by notebook.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = _add(commands, "run", _run, "execute one notebook in batch")
    run.add_argument("notebook", help="22, 22_extract_scene or a path")
    run.add_argument("--profile", default="tiny", help="which profile (tiny)")
    _add_set(run)
    for name, default in (("reproduce", None), ("study", "study")):
        command = _add(
            commands, name, _reproduce, f"run every notebook of {default or 'a profile'}"
        )
        if default is None:
            command.add_argument("profile", help="a name that `ecmf list` shows")
        else:
            command.set_defaults(profile=default)
        command.add_argument("--cores", type=int, default=0, help="processors to use (all)")
        command.add_argument("--dry-run", action="store_true", help="only say what would run")
        _add_set(command)
    for name, function, text in (
        ("verify", _verify, "compare the figures with the reference that ships"),
        ("index", _index, "write index.html and results.json again"),
    ):
        _add(commands, name, function, text).add_argument("profile")
    _add(commands, "list", _list, "show the notebooks and the profiles")
    return parser


def _add(commands: argparse._SubParsersAction, name: str, function, text: str):
    command = commands.add_parser(name, help=text, description=text)
    command.set_defaults(command=function)
    return command


def _add_set(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="[NOTEBOOK.]NAME=VALUE",
        help="a parameter stronger than the profile's; may be repeated",
    )


if __name__ == "__main__":
    sys.exit(main())
