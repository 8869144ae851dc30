"""The ``graphopt`` command: its subcommands, and how errors become exit codes.

Exit codes: 0 success, 1 unexpected error, 2 bad option, 3 bad model, 4 unsupported, 5 code
generation failed, 6 missing toolchain, 7 bad artifact or output path, 8 bad input data,
9 verification failed, 11 accuracy budget missed or no gain, 130 interrupted.
"""

from __future__ import annotations

import os
import sys

from graphopt.errors import GraphoptError

__all__ = ["run"]


def run() -> None:
    """Entry point of the console script."""
    try:
        import typer  # noqa: F401
    except ImportError:
        _fail("the command line needs typer and rich; `pip install graphopt[cli]` brings them", 6)
    from graphopt.cli.app import app

    try:
        app(args=_spelled(sys.argv[1:]), standalone_mode=True)
    except GraphoptError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        # The reader of our output went away (`graphopt ... | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except Exception as error:
        if os.environ.get("GRAPHOPT_DEBUG"):
            raise
        text = f"{type(error).__name__}: {error}".strip()
        _fail(f"unexpected error, please report it (GRAPHOPT_DEBUG=1 shows where): {text}", 1)


# Ways to say when to verify, beside the flags.
_VERIFY = {
    "--verify=each": "--verify-each",
    "--verify=end": "--verify",
    "--verify=none": "--no-verify",
}


_TUNE = "--tune"
_TUNE_SECONDS = 10


def _spelled(arguments: list[str]) -> list[str]:
    """Arguments with ``--verify=each`` and its like as flags, and seconds for a bare ``--tune``, up
    to a ``--``."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    spelled = [_VERIFY.get(a, a) for a in arguments[:end]]
    for place, argument in enumerate(spelled):
        following = spelled[place + 1] if place + 1 < len(spelled) else ""
        if argument == _TUNE and not following.replace(".", "", 1).isdigit():
            spelled[place] = f"{_TUNE}={_TUNE_SECONDS}"
    return [*spelled, *arguments[end:]]


def _fail(message: str, code: int) -> None:
    sys.stderr.write(f"graphopt: error: {message}\n")
    sys.exit(code)
