"""`python -m polythink` is the program `polythink`."""

from polythink.cli.main import main

if __name__ == "__main__":
    main()
