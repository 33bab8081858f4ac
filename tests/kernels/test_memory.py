import sys

import pytest
import torch

from prompt_recovery.kernels.memory import keep_freed_memory
from tests.forks import PROCESSES


def count_faults(kept, counts):
    import resource

    torch.set_num_threads(1)
    if kept:
        assert keep_freed_memory()
    torch.ones(1 << 24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for size in range(4):
        torch.ones((1 << 24) - ((size + 1) << 18))  # 63 MiB and less, which glibc would return
    counts.put(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


@pytest.mark.skipif(sys.platform != "linux", reason="is about Linux")
def test_freed_memory_is_used_again():
    faults = []
    for kept in (True, False):
        counts = PROCESSES.SimpleQueue()
        process = PROCESSES.Process(target=count_faults, args=(kept, counts))
        process.start()
        process.join()
        assert process.exitcode == 0
        faults.append(counts.get())
    assert faults[0] < faults[1] / 10
