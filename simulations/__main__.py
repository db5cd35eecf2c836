"""Entry point of `python -m simulations`."""

from __future__ import annotations

import sys

from simulations.cli import main

sys.exit(main())
