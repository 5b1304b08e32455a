"""`python -m serve FOLDER`, where neither Keras nor keras_smlp is installed."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
