"""The command `p2pmodel`, which is also `python -m p2pmodel`. Loading takes a while, and Ctrl-C may come meanwhile."""

import sys


def main() -> None:
    """Run the command line of this process and exit with its code."""
    try:
        from p2pmodel.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write("p2pmodel: error: interrupted\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
