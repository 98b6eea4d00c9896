"""`python -m polythink` is the program `polythink`."""

import sys

try:
    from polythink.cli.main import main
except KeyboardInterrupt:  # in the first moments, before `main` can catch it
    print("polythink: interrupted", file=sys.stderr)
    raise SystemExit(130) from None

if __name__ == "__main__":
    main()
