"""`python -m t3d`, and with it `torchrun -m t3d`: the same as the command `t3d`."""

import sys

from t3d.cli.main import run_process

sys.exit(run_process())
