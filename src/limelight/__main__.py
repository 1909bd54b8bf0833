"""`python -m limelight` is the command `limelight`."""

from .cli.main import main

if __name__ == "__main__":
    main()
