"""On the path of new interpreters that tests start, where Python imports it first."""

import os

from tests import forks

if forks.SERVER in os.environ and {"PROMPT_RECOVERY_TRIAL_OF", "LOCAL_RANK"} & os.environ.keys():
    forks.stand_in()
