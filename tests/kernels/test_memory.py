import subprocess
import sys

import pytest

_TOUCH = """
import resource, sys, torch
from prompt_recovery.kernels.memory import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "kept":
    assert keep_freed_memory()
torch.ones(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for size in range(4):
    torch.ones((1 << 24) - ((size + 1) << 18))  # 63 MiB and less, which glibc would return
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="is about Linux")
def test_freed_memory_is_used_again():
    faults = [
        int(subprocess.check_output([sys.executable, "-c", _TOUCH, name]))
        for name in ("kept", "returned")
    ]
    assert faults[0] < faults[1] / 10
