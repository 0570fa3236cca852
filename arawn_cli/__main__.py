"""`python -m arawn_cli`: the same program as the console script."""

from arawn_cli.cli import main

if __name__ == "__main__":
    main()
