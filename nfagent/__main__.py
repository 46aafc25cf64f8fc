"""`python -m nfagent`: the same as the command `nfagent`."""

from nfagent.cli import main

if __name__ == "__main__":
    main()
