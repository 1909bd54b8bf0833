"""`python -m limelight` is the command `limelight`."""

from limelight.apps.cli import main

if __name__ == "__main__":
    main()
