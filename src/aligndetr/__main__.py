"""`python -m aligndetr` is the command line."""

import sys

from aligndetr.cli import main

sys.exit(main())
