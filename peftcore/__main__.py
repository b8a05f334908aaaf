"""``python -m peftcore``."""

from peftcore.cli import main

if __name__ == "__main__":
    main()
