"""Run the console script as `python -m pytest_rssguard`."""

import sys

from pytest_rssguard.cli import main

sys.exit(main())
