"""``python -m benchmarks.zoo list`` and ``python -m benchmarks.zoo fetch [names]``."""

from __future__ import annotations

import argparse
import sys
import time

from benchmarks.zoo import store
from benchmarks.zoo.catalog import models


def main(argv: list[str] | None = None) -> int:
    """List the zoo, or fetch models one after another. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="what the zoo holds and what is cached")
    fetch = commands.add_parser("fetch", help="fetch or export models that are not cached yet")
    fetch.add_argument("names", nargs="*", help="models (default: all)")
    args = parser.parse_args(argv)
    return _list() if args.command == "list" else _fetch(args.names)


def _list() -> int:
    for model in models():
        file = store.cached(model.name)
        state = f"{file.stat().st_size / 1e6:7.1f} MB" if file.exists() else "not cached"
        shape = "dynamic" if model.dynamic else "static"
        source = "export" if model.needs_torch else "package"
        print(f"{model.name:26} {state:>10}  {shape:8} {source:8} {model.title}")
    return 0


def _fetch(names: list[str]) -> int:
    failed = 0
    for name in names or [model.name for model in models()]:
        begin = time.perf_counter()
        fresh = True
        try:
            fresh = not store.cached(name).exists()
            file = store.path(name)
        except (KeyError, store.ZooError) as error:
            print(f"{name}: {error.args[0]}", file=sys.stderr)
            failed += 1
            continue
        took = f"{time.perf_counter() - begin:.1f} s" if fresh else "cached"
        print(f"{name}: {file} ({took})", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
