"""`python -m nasvid` is `nasvid`."""

from nasvid.cli.main import main

if __name__ == "__main__":
    main(prog_name="nasvid")
