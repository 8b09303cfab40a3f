"""``python -m thetaprime.cli``: the same as the ``thetaprime`` command."""

from thetaprime.cli import main

if __name__ == "__main__":
    main()
