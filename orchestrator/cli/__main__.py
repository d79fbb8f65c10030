"""`python -m orchestrator.cli` is the `fewtune` command."""

import sys

from orchestrator.cli.app import main

sys.exit(main())
