"""How many examples the tests with arbitrary files and answers try.

Before a release: PROMPT_RECOVERY_TEST_FUZZ=300 pytest tests/test_any_file.py tests/rewriters
"""

import os

EXAMPLES = int(os.environ.get("PROMPT_RECOVERY_TEST_FUZZ", "50"))
