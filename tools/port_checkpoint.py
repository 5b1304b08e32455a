"""`python tools/port_checkpoint.py` is `keras-smlp port`, from a checkout."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from keras_smlp_cli.port import main  # noqa: E402 - the checkout's

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "port_checkpoint.py"))
