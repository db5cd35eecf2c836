"""`python -m p2pmodel` is the command `p2pmodel`."""

from p2pmodel.cli.main import main

if __name__ == "__main__":
    main()
