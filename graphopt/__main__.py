"""``python -m graphopt``: the command line."""

from graphopt.cli.main import run

if __name__ == "__main__":
    run()
