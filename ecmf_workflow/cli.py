"""The command `ecmf`: run a notebook, reproduce a profile, verify its figures."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from ecmf_utils import __version__, files
from ecmf_utils.files import IS_CHECKOUT, ROOT, EcmfError, data_dir, given_path, own_name, reports_dir, show
from ecmf_utils.notebook import parameters, profiles, steps

EXAMPLES = """examples:
  ecmf reproduce demo
  ecmf reproduce folder --set source=DIR
  ecmf corpus ravdess --set source=DIR
  ecmf run 22_extract_scene --profile demo --set pooling=mean+std
  ecmf encoders audio
  ecmf verify demo
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 when all went well, 1 when something failed, 2 when it was refused."""
    options = _parser().parse_args(arguments)
    if not IS_CHECKOUT:  # the runs that this one starts work elsewhere, and write to the same place
        os.environ["ECMF_ROOT"] = str(ROOT)
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
    from . import reproduction

    return reproduction.reproduce(options.profile, options.set, options.cores, options.dry_run)


def _corpus(options: argparse.Namespace) -> int:
    from ecmf_utils import corpus, features

    from . import corpus_summary

    profile, sets = profiles.prepare(options.profile, options.set)
    profiles.check_sets(sets, [profiles.START])
    made = corpus.build(profile, profiles.resolve(profiles.START, profile, sets), features.import_features)
    print(corpus_summary.summary(made))
    print(f"\nManifest: {show(data_dir(profile) / 'clips.parquet')}")
    return 0


def _import(options: argparse.Namespace) -> int:
    from ecmf_utils import corpus, features

    profile = options.profile
    branches = profiles.load_profile(profile)["branches"]
    pairs = [(branch, given_path(path)) for branch, path in map(_pair, options.features)]
    for branch, path in pairs:
        if branch not in branches:
            raise files.unknown("branch", branch, branches, f"profile {profile}")
        own_name(branch)
        if not path.exists():
            raise EcmfError(f"{path}: no such folder or table of features")
    clips = corpus.read_clips(profile)
    for branch, path in pairs:
        how = {"clips": clips, "id_column": options.id_column, "pooling": options.pooling}
        summary = features.import_features(profile, branch, path, **how)
        print("\n".join([summary.to_string(index=False), *summary.attrs["lines"]]), flush=True)
    return 0


def _pair(text: str) -> tuple[str, str]:
    branch, equals, path = text.partition("=")
    if not equals or not path:
        raise EcmfError(f"{text}: expected BRANCH=PATH, such as audio=/features/chinese-hubert-large-UTT")
    return branch, path


def _export(options: argparse.Namespace) -> int:
    from ecmf_utils.features import store
    from ecmf_utils.features.published import exchange

    known = profiles.load_profile(options.profile)["branches"]
    there = [b for b in known if "@" not in b and (store.branch_folder(options.profile, b) / "selected.json").exists()]
    for branch in options.branches or there or known:
        if branch not in known:
            raise files.unknown("branch", branch, known, f"profile {options.profile}")
        how = {"suffix": options.suffix, "overwrite": options.overwrite}
        written = exchange.export_features(options.profile, branch, given_path(options.to), **how)
        print("\n".join([written.to_string(index=False), *written.attrs["lines"]]), flush=True)
    for branch in [] if options.branches else [b for b in known if b not in there]:
        print(f"{branch}: has no features yet, left out")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from . import results

    members = profiles.load_profile(options.profile)["members"]
    moved = [f"{name}: {line}" for name in members for line in results.verify(name)]
    moved += [] if members else results.verify(options.profile)
    for line in moved:
        print(line)
    print(f"{options.profile}: {len(moved)} figures moved" if moved else f"{options.profile}: ok")
    return 1 if moved else 0


def _index(options: argparse.Namespace) -> int:
    from .pages import index

    members = profiles.load_profile(options.profile)["members"]
    for name in members:
        if (reports_dir(name) / "runs").exists():
            index.build_index(name, steps.plan_notebooks(name))
    order = [] if members else steps.plan_notebooks(options.profile)
    print(f"Report: {show(index.build_index(options.profile, order))}")
    return 0


def _list(options: argparse.Namespace) -> int:
    print("notebooks")
    for name in parameters.list_notebooks():
        step = steps.STEPS.get(name)
        print(f"  {name:<20} {step.title if step else ''}")
    print("profiles")
    for name in profiles.list_profiles():
        print(f"  {name:<20} {profiles.load_profile(name)['description']}")
    return 0


def _encoders(options: argparse.Namespace) -> int:
    from ecmf_utils.encoders import catalogue

    found = catalogue.list_encoders(options.branch)
    rows = json.loads(found.to_json(orient="records"))
    print(json.dumps(rows, indent=1, ensure_ascii=False) if options.json else catalogue.format_table(found))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ecmf",
        description="Reproducible multimodal emotion recognition, notebook by notebook.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ecmf {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = _add(commands, "run", _run, "execute one notebook in batch")
    run.add_argument("notebook", help="22, 22_extract_scene or a path")
    run.add_argument("--profile", default="tiny", help="which profile (tiny)")
    _add_set(run)
    again = _add(commands, "reproduce", _reproduce, "run every notebook of a profile")
    again.add_argument("profile", help="a name that `ecmf list` shows")
    again.add_argument("--cores", type=int, default=0, help="processors to use (all)")
    again.add_argument("--dry-run", action="store_true", help="only say what would run")
    _add_set(again)
    checked = _add(commands, "corpus", _corpus, "build and check the manifest of a profile, nothing else")
    checked.add_argument("profile", help="a name that `ecmf list` shows")
    _add_set(checked)
    taken = _add(commands, "import-features", _import, "take published features as branches of a profile")
    taken.add_argument("profile")
    taken.add_argument("features", nargs="+", metavar="BRANCH=PATH", help="a folder of .npy files, or a table")
    taken.add_argument("--id-column", default="", help="column of a table that names the clips (found by itself)")
    taken.add_argument("--pooling", default="mean", help="how frames become one vector: mean, mean+std, max (mean)")
    given = _add(commands, "export-features", _export, "write features as one .npy a clip")
    given.add_argument("profile")
    given.add_argument("branches", nargs="*", help="which (all of the profile)")
    given.add_argument("--to", required=True, metavar="DIR", help="where the folders of .npy files go")
    given.add_argument("--suffix", default="", help="of the folder's name (-UTT or -FRA)")
    given.add_argument("--overwrite", action="store_true", help="replace files that are there")
    for name, function, text in (
        ("verify", _verify, "compare the figures with the reference that ships"),
        ("index", _index, "write index.html and results.json again"),
    ):
        _add(commands, name, function, text).add_argument("profile")
    _add(commands, "list", _list, "show the notebooks and the profiles")
    known = _add(commands, "encoders", _encoders, "show the encoders, what they give and whether they are here")
    known.add_argument("branch", nargs="?", default="", metavar="BRANCH", help="only those of scene, face, ... (all)")
    known.add_argument("--json", action="store_true", help="all facts, for programs")
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
