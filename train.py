"""Trains an sMLPNet: `python train.py [--config FILE] [--eval] [--section.key value ...]`.

The same as `keras-smlp train`; `python train.py --help` shows every key.
"""

import sys

from keras_smlp_cli.huge_pages import restart_with_huge_pages
from keras_smlp_cli.train import main

if __name__ == "__main__":
    restart_with_huge_pages()
    sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    sys.exit(main(sys.argv[1:], "train.py"))
