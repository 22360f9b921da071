"""`python -m cnn` is the command `cnn`."""

import sys

from cnn.cli import main

sys.exit(main())
