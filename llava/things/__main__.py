"""``python -m llava.things COMMAND``, the same as ``llava things COMMAND``."""

import sys

from llava.cli.main import llava

if __name__ == "__main__":
    llava(["things", *sys.argv[1:]], prog_name="llava")
