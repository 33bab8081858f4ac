import os
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.generation.cluster import Local, RayCluster
from prompt_recovery.generation.generate import generate
from prompt_recovery.rewriters.base import in_order
from tests.forks import standing_in
from tests.generation.fakes import Broke, FakeRewriter, without_a_model
from tests.generation.test_generate import files, job
from tests.generation.test_preferences import forget_candidates, stage
from tests.generation.test_store import chats

ray = pytest.importorskip("ray", reason="cluster=ray needs the extra [ray]")


@pytest.fixture(scope="module")
def cluster():
    """A real Ray cluster of this machine, with two workers, which are forks that Ray starts."""
    os.environ["RAY_AUTH_MODE"] = "disabled"  # or Ray writes a token into the user's home
    # Otherwise its workers wait for every other test.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    for attempt in range(3):
        try:
            with pytest.MonkeyPatch.context() as patch:
                for name, value in standing_in().items():
                    patch.setenv(name, value)
                ray.init(num_cpus=2, include_dashboard=False, logging_level="WARNING")
            break
        except Exception as error:  # a busy machine takes longer than Ray waits
            ray.shutdown()
            if attempt == 2:
                pytest.skip(f"Ray did not start here: {type(error).__name__}: {error}")
    yield RayCluster(workers=2, block=8)
    ray.shutdown()


def workers(log):
    return Counter(
        line.split()[2] for line in log.read_text().splitlines() if line.startswith("answered")
    )


def test_a_cluster_makes_what_one_process_makes(cluster, tmp_path):
    log = tmp_path / "log"
    make = partial(FakeRewriter, seconds=0.005, log=log, errors={"too_long": 20})
    generate(job(tmp_path / "ray" / "d", cluster.rewriter(make), chunk=cluster.chunk))
    generate(job(tmp_path / "local" / "d", Local().rewriter(partial(make, log=None))))
    assert files(tmp_path / "ray" / "d") == files(tmp_path / "local" / "d")
    assert sum(workers(log).values()) == 120
    assert str(os.getpid()) not in workers(log)


def test_a_worker_that_is_killed_costs_its_block_at_most(cluster, tmp_path):
    log = tmp_path / "log"
    make = partial(FakeRewriter, seconds=0.02, log=log)
    killed = []

    def kill():
        while not killed:
            time.sleep(0.01)
            if log.exists() and sum(workers(log).values()) > 30:
                killed.append(int(workers(log).most_common()[0][0]))
                os.kill(killed[0], signal.SIGKILL)

    watch = threading.Thread(target=kill, daemon=True)
    watch.start()
    answers = in_order(cluster.rewriter(make), chats(120), range(120))
    watch.join(10)
    assert killed
    assert answers == in_order(FakeRewriter(), chats(120), range(120))
    asked = sum(line.startswith("asked") for line in log.read_text().splitlines())
    assert 120 <= asked <= 120 + 4 * cluster.block
    assert len(workers(log)) > 1  # others went on


def test_what_a_worker_raises_is_one_line_and_costs_no_answer(cluster, tmp_path):
    log = tmp_path / "log"
    found = []
    with pytest.raises(PromptRecoveryError, match="add credit") as raised:
        found.extend(cluster.rewriter(partial(Broke, log=log)).answers(chats(8), range(8)))
    assert "\n" not in str(raised.value)
    assert len(found) == 3


def test_a_worker_that_cannot_start_is_one_line(cluster, tmp_path):
    rewriter = cluster.rewriter(partial(without_a_model, tmp_path / "ready"))
    with pytest.raises(PromptRecoveryError, match=r"rewriter\.model\.path"):
        in_order(rewriter, chats(20), range(20))


def test_candidates_and_scores_are_those_of_one_process(cluster, tmp_path, monkeypatch):
    generate(job(tmp_path / "local" / "d", rows=40, preferences=stage(Local())))
    forget_candidates(tmp_path / "cache", monkeypatch)
    generate(
        job(
            tmp_path / "ray" / "d",
            cluster.rewriter(FakeRewriter),
            rows=40,
            chunk=cluster.chunk,
            preferences=stage(cluster),
        )
    )
    assert files(tmp_path / "ray" / "d") == files(tmp_path / "local" / "d")


def test_more_workers_than_the_cluster_has_are_one_line(cluster):
    wanted = replace(cluster, workers=99)
    with pytest.raises(PromptRecoveryError, match="cluster.workers=99 with 1 CPU each"):
        in_order(wanted.rewriter(FakeRewriter), chats(200), range(200))


@pytest.mark.parametrize("setting", ["workers", "block", "cpus"])
def test_senseless_settings_are_one_line(setting):
    with pytest.raises(PromptRecoveryError, match=f"cluster.{setting}=0"):
        RayCluster(**{setting: 0})


NOWHERE = "localhost:1"


@pytest.fixture
def no_cluster():
    """This process belongs to no cluster: one that it belongs to hides what an address does."""
    ray.shutdown()


@pytest.mark.usefixtures("no_cluster")
def test_no_requests_need_no_cluster():
    assert list(RayCluster(address=NOWHERE).each([], list)) == []


@pytest.mark.usefixtures("no_cluster")
@pytest.mark.parametrize("address", [NOWHERE, f"ray://{NOWHERE}", "nowhere.invalid:6379"])
def test_an_address_where_no_cluster_is_is_one_line(address):
    with pytest.raises(PromptRecoveryError, match=f"cluster.address={address}.*`ray start`") as e:
        list(RayCluster(address=address).each([1], list))
    assert "\n" not in str(e.value)
