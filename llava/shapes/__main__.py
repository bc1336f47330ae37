"""``python -m llava.shapes COMMAND``, the same as ``llava shapes COMMAND``."""

import sys

from llava.cli.main import llava

if __name__ == "__main__":
    llava(["shapes", *sys.argv[1:]], prog_name="llava")
