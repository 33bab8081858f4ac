"""On the path of new interpreters that tests start, where Python imports it first."""

import os
import sys

from tests import forks

_STARTED_FOR_A_RUN = {"PROMPT_RECOVERY_TRIAL_OF", "LOCAL_RANK"} & os.environ.keys()
_PROGRAM = next((word for word in sys.orig_argv[1:] if not word.startswith("-")), "")
_WORKER_OF_RAY = _PROGRAM.endswith("ray/_private/workers/default_worker.py")

if forks.SERVER in os.environ and (_STARTED_FOR_A_RUN or _WORKER_OF_RAY):
    forks.stand_in()
