"""Training on several processes: the numbers of one process, any failure ends all, and resuming on another number."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from itertools import chain
from math import ceil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import distributed_runs, fresh_python

from cnn.cli import main
from cnn.distributed.affinity import cpus_text, divide
from cnn.distributed.agreement import check_agreement
from cnn.distributed.job import join
from cnn.distributed.launch import launched
from cnn.distributed.shard import Slice
from cnn.errors import CnnError, UsageError
from cnn.layers import Flatten, Linear
from cnn.model.sequential import Sequential
from cnn.ops.input import Changes
from cnn.shard import part
from cnn.system.storage import read_arrays
from cnn.system.threads import budget
from cnn.training.gradients import BatchGradients, buckets
from cnn.training.metrics import read_metrics
from cnn.training.world import Pending, World

# The mpiexec of the mpich that is installed beside this interpreter, before one of another MPI.
MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
CURVE, WEIGHTS = 1e-5, 1e-4
"""How far losses, relatively, and weights may be from those of one process: sums of float32 in another order."""
EXACT = 1e-9
"""The same in float64, where even a batch of two images through a batch normalisation magnifies no rounding so far."""

SHORT = 2e-4
"""The same in bfloat16, where a last bit of a sum may decide how an operand is rounded, to 2**-8 of it."""
BOUNDS = {"float64": (EXACT, EXACT), "bfloat16": (SHORT, SHORT)}

FAST = "openblas"

launches = pytest.mark.skipif(
    MPIEXEC is None or find_spec("mpi4py") is None,
    reason="there is no mpiexec or no mpi4py: pip install 'cnn-blas[mpi]'",
)


def mpiexec(*groups, **options):
    """Runs tests/helpers/distributed_runs.py under mpiexec; a group is (number of ranks, arguments...)."""
    command = [MPIEXEC]
    for count, *arguments in groups:
        program = [sys.executable, distributed_runs.__file__, *map(str, arguments)]
        command += [*([":"] if len(command) > 1 else []), "-n", str(count), *program]
    environment = os.environ | {"CNN_DETERMINISTIC": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, **options)


def said(result):
    """The lines of a run that come from this program, not from the launcher."""
    return [line for line in result.stderr.splitlines() if line.startswith("cnn:")]


def printed(result):
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def single():
    """The numbers of one process."""
    return distributed_runs.numbers(World(), ("numpy", FAST))


@pytest.fixture(scope="module", params=[2, 3, 4], ids="{} ranks".format)
def several(request):
    """(number of ranks, what they give)."""
    return request.param, printed(mpiexec((request.param, "numbers", "numpy", FAST)))


@launches
def test_any_number_of_ranks_gives_the_numbers_of_one(several, single):
    _, found = several
    for name, expected in single.items():
        curve, weights = BOUNDS.get(name.split()[-1], (CURVE, WEIGHTS))
        np.testing.assert_allclose(found[name]["curve"], expected["curve"], rtol=curve, err_msg=name)
        np.testing.assert_allclose(found[name]["weights"], expected["weights"], rtol=0, atol=weights, err_msg=name)


@launches
def test_all_ranks_end_with_the_same_bytes_even_where_their_processors_round_differently(several):
    count, found = several
    for name in ("numpy", "accumulated", "averaged", "nudged"):
        assert len(found[name]["checksums"]) == count
        assert len(set(found[name]["checksums"])) == 1, name
    assert found["nudged"]["weights"] != found["numpy"]["weights"]


@launches
def test_every_image_is_trained_on_once_an_epoch_by_one_of_the_ranks(several):
    count, found = several
    assert sorted(chain(*found["seen"])) == list(range(distributed_runs.IMAGES))
    sizes = [len(each) for each in found["seen"]]
    # Four batches; in each, the shares of two ranks differ by at most one image.
    assert len(sizes) == count
    assert max(sizes) - min(sizes) <= 4


@launches
def test_averaging_now_and_then_is_another_run_that_learns_as_well(several, single):
    _, found = several
    averaged, expected = found["averaged"], single["numpy"]
    assert np.abs(np.subtract(averaged["weights"], expected["weights"])).max() > 100 * WEIGHTS
    assert averaged["curve"][-1][0] < 0.8 * averaged["curve"][0][0]


@launches
def test_the_traffic_of_a_run_is_counted(several):
    _, found = several
    steps = distributed_runs.EPOCHS * ceil(distributed_runs.IMAGES / distributed_runs.BATCH)
    gradients = found["gradient bytes"]
    count, seconds, exposed = found["traffic"]
    # Beside the gradients: loss, correct answers and the flag; four channels' moments and gradients; two evaluations.
    assert count == steps * (gradients + 3 * 8 + 2 * 4 * 8 + 2 * 4 * 8) + distributed_runs.EPOCHS * 2 * 8
    assert 0 < exposed <= seconds


@launches
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system keeps no set of CPUs for a process")
def test_ranks_compute_on_cpus_of_their_own_as_far_as_there_are_enough(several):
    count, found = several
    allowed = os.sched_getaffinity(0)
    used = [cpu for cpus in found["cpus"] for cpu in cpus]
    assert set(used) <= allowed
    if count <= len(allowed):
        assert sorted(used) == sorted(allowed)
    else:
        assert [len(cpus) for cpus in found["cpus"]] == [1] * count
        assert max(map(used.count, used)) == ceil(count / len(allowed))


@launches
@pytest.mark.parametrize("several", [3], indirect=True, ids="{} ranks".format)
def test_another_run_on_as_many_ranks_gives_the_same_bytes(several):
    count, found = several
    again = printed(mpiexec((count, "numbers", "numpy", FAST)))
    assert again | {"traffic": None} == found | {"traffic": None}


FAULTS = {
    "exception": (1, "rank 1: RuntimeError: a planted error", 4),
    "infinity": (1, "conv1.weight on rank 1 became infinite or NaN at step 5 (epoch 2); lower the learning rate", 4),
    "kill": (9, None, 4),
    "nan": (1, "The loss became nan at step 6 (epoch 2), first in the output of batchnorm1 on rank 0; lower", 4),
    "stop": (130, "Stopped by a test at step 6; its state is saved in", 6),
}
"""The exit code of a run with a fault in rank 1 after step 5, what it says, and the step of the last checkpoint."""


@launches
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_one_rank_ends_all_with_one_message_and_another_number_of_ranks_goes_on(fault, tmp_path, single):
    code, sentence, kept = FAULTS[fault]
    checkpoint = tmp_path / "run"
    result = mpiexec((2, "train", checkpoint, fault))
    assert result.returncode == code
    assert result.stdout.count("curve") == 0
    if sentence is None:
        # A killed process prints nothing; its launcher does.
        assert said(result) == []
    else:
        (line,) = said(result)
        assert sentence in line
    _, table = read_arrays(checkpoint, "checkpoint")
    assert table["position"]["step"] == kept
    resumed = (
        printed(mpiexec((3, "train", checkpoint, "none")))
        if fault == "stop"
        else distributed_runs.train(World(), checkpoint, "none")
    )
    assert resumed["from"] == kept
    np.testing.assert_allclose(resumed["curve"], single["numpy"]["curve"][1:], rtol=CURVE)
    np.testing.assert_allclose(resumed["weights"], single["numpy"]["weights"], rtol=0, atol=WEIGHTS)


NET = """
input = [28, 28, 1]
layers = [
    {type = "Conv2D", filters = 4, kernel = 5, stride = 2},
    {type = "BatchNorm"},
    {type = "ReLU"},
    {type = "Flatten"},
    {type = "Linear", units = 10},
]
recipe = {epochs = 2, batch_size = 25, schedule = {type = "Constant", lr = 0.01}}
"""


def train(folder, *more):
    path = folder / "net.toml"
    path.write_text(NET)
    return ["train", "synthetic", "--model", str(path), "--out", str(folder / "run"), "--backend", "numpy", *more]


@launches
def test_rank_0_alone_prints_and_saves_and_one_process_goes_on(tmp_path, capsys):
    options = ["--epochs", "1", "--batch-size", "100", "--scale-lr", "--warmup", "0.5", "--accumulate", "2"]
    result = mpiexec((3, "cnn", *train(tmp_path, "--distributed", *options)), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert said(result) == []
    lines = result.stdout.splitlines()
    for title, text in (
        ("world", "3 ranks on 1 host, "),
        ("recipe", "1 epoch, batch 100 in 2 micro-batches, "),
        ("epoch", "1/1  loss "),
        ("test accuracy", ""),
    ):
        (line,) = (line for line in lines if line.split("  ")[0].startswith(title))
        assert line[len(title) :].strip().startswith(text)
    assert [line for line in lines if "rank 0: 1 thread" in line and "rank 2: 1 thread" in line]
    run = tmp_path / "run"
    assert json.loads((run / "summary.json").read_text())["ranks"] == 3
    assert len(read_metrics(run / "metrics.jsonl")) == 1
    assert main(train(tmp_path, "--resume", "--epochs", "2")) == 0
    header = capsys.readouterr().out
    # Steps of 1,000 images minus 50 held out, in hundreds; four times the recipe's batch, so four times its rate.
    assert "batch 100 in 2 micro-batches" in header
    assert "Warmup (then Constant(lr=0.04), steps 5, start 0.25)" in header
    assert "world" not in header
    rates = [row.learning_rate for row in read_metrics(run / "metrics.jsonl")]
    assert rates == pytest.approx([0.04, 0.04])


@launches
@pytest.mark.parametrize(
    ("odd", "code", "sentence"),
    [
        (["--backend", FAST], 2, f"cnn: rank 1 has another backend ({FAST}, "),
        (["--bogus"], 2, "cnn: rank 1: unrecognized arguments: --bogus"),
        (["--backend", "absent"], 2, r"cnn: rank 1 on "),
    ],
)
def test_a_rank_that_is_not_as_the_others_is_refused(odd, code, sentence, tmp_path):
    command = ("cnn", *train(tmp_path))
    result = mpiexec((1, *command), (1, *command, *odd))
    assert result.returncode == code
    assert result.stdout == "" or "loss" not in result.stdout
    (line,) = said(result)
    assert line.startswith(sentence)
    assert not (tmp_path / "run").exists()


@launches
def test_a_rank_that_leaves_while_another_waits_for_it_ends_all():
    result = mpiexec((2, "leave"))
    assert result.returncode == 1
    (line,) = said(result)
    assert line.startswith("cnn: rank 0: rank 1 ended by sys.exit(3) while rank 0 was waiting for it; end the program")


class Odd(World):
    """A world in which rank 1 has different facts."""

    def __init__(self, changes):
        super().__init__()
        self.changes = changes

    def gather(self, value):
        return [value, value | self.changes]


@pytest.mark.parametrize(
    "changes",
    [
        {"training images": "10 images, crc 00000001"},
        {"code": "cnn-blas 0.0.9, crc 00000002"},
        {"seed": 8},
        {"CNN_ALGORITHM": "winograd2"},
    ],
)
def test_other_data_code_or_seeds_are_named(changes):
    facts = {"seed": 7, "training images": "10 images, crc 00000000"}
    check_agreement(Odd({}), facts)
    ((name, value),) = changes.items()
    with pytest.raises(UsageError, match=rf"rank 1 has another {name} \({value}, rank 0 has .*\); give every rank"):
        check_agreement(Odd(changes), facts)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"PMI_RANK": "3", "PMI_SIZE": "8"}, (3, 8)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "PMIX_RANK": "1"}, (1, 2)),
        ({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "PMIX_RANK": "2"}, (2, 4)),
        ({"PMIX_RANK": "5"}, (5, None)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, None),
    ],
)
def test_a_launcher_is_known_by_its_variables(environment, expected):
    found = launched(environment)
    assert (found and (found.rank, found.size)) == expected


def test_without_a_launcher_or_mpi_nothing_trains_in_silence(monkeypatch):
    assert join().size == 1
    with pytest.raises(UsageError, match="--distributed needs a launcher; start it as: mpiexec -n N cnn train"):
        join(required=True)
    monkeypatch.setitem(sys.modules, "cnn.distributed.mpi", None)
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "2")
    with pytest.raises(
        CnnError, match=r"one of several processes, but MPI cannot be loaded .*pip install 'cnn-blas\[mpi"
    ):
        join()
    monkeypatch.setenv("PMI_SIZE", "1")
    assert join().size == 1


def test_ranks_without_room_for_messages_are_told_so(monkeypatch):
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "3")
    monkeypatch.setenv("MPI_LOCALNRANKS", "3")
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=1, f_frsize=65536))
    with pytest.raises(CnnError, match=r"/dev/shm has only 0\.1 MB free, and MPI needs about 6 MB there; delete"):
        join()


def test_a_process_by_itself_imports_no_mpi():
    printed = fresh_python.printed(
        "import sys, cnn.training.trainer, cnn.commands.train; print('mpi4py' in sys.modules)"
    )
    assert printed == "False\n"


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 5, 7, 64])
def test_parts_cover_a_batch_and_differ_by_one_at_most(parts, count):
    found = [part(index, parts, 10, 10 + count) for index in range(parts)]
    assert [start for start, _ in found] == [10, *(stop for _, stop in found[:-1])]
    assert found[-1][1] == 10 + count
    sizes = [stop - start for start, stop in found]
    assert max(sizes) - min(sizes) <= 1


def test_cpus_are_divided_by_cores_and_what_a_launcher_has_bound_stays(tmp_path):
    # Two cores with two hardware threads each: 0 and 2 on the first one, 1 and 3 on the second.
    for cpu, core in ((0, 0), (1, 1), (2, 0), (3, 1)):
        folder = tmp_path / f"cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "core_id").write_text(f"{core}\n")
        (folder / "physical_package_id").write_text("0\n")
    every, halves = frozenset(range(4)), [frozenset({0, 1}), frozenset({2, 3})]
    assert [divide([every] * 2, rank, tmp_path) for rank in range(2)] == [[0, 2], [1, 3]]
    assert [divide([every] * 3, rank, tmp_path) for rank in range(3)] == [[0], [2], [1, 3]]
    assert [divide([every] * 6, rank, tmp_path) for rank in range(6)] == [[0], [2], [1], [3], [0], [2]]
    assert [divide(halves, rank, tmp_path) for rank in range(2)] == [[0, 1], [2, 3]]
    assert [divide([halves[0]] * 2 + [halves[1]], rank, tmp_path) for rank in range(3)] == [[0], [1], [2, 3]]
    assert cpus_text([8, 0, 1, 2, 5]) == "CPUs 0-2,5,8"


def test_ranks_of_a_host_share_its_quota(monkeypatch):
    monkeypatch.setattr("cnn.system.threads.affinity_count", lambda: 8)
    monkeypatch.setattr("cnn.system.threads.cgroup_quota", lambda: 6.0)
    for name in ("CNN_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert [budget(None, processes).count for processes in (1, 2, 4, 12)] == [6, 3, 1, 1]
    assert budget(None, 2).describe() == "3 threads (affinity 8, cgroup quota 6 CPUs for 2 processes)"


class Sums(Pending):
    """Records what is summed, and when."""

    def __init__(self, events):
        self.events = events

    def add(self, array):
        self.events.append(("sum", array.size))

    def poke(self):
        self.events.append("poke")

    def finish(self):
        self.events.append("finish")


def test_gradients_are_summed_while_the_backward_pass_goes_on(monkeypatch):
    world, events = World(), []
    world.size = 2
    monkeypatch.setattr(world, "shard", partial(Slice, world))
    monkeypatch.setattr(world, "sums", lambda: Sums(events))
    monkeypatch.setattr("cnn.training.gradients.BUCKET", 0)
    model = Sequential([Flatten(), Linear(32), Linear(16), Linear(3)], (4, 4, 1), backend="numpy")
    gradients = BatchGradients(model, world)
    for layer in model.layers[1:]:
        monkeypatch.setattr(layer, "_weight_gradient", lambda x, dz, out, name=layer.name: events.append(name))
    data = distributed_runs.Split(np.zeros((4, 4, 4, 1), np.uint8), np.zeros(4, np.int64))
    gradients.compute(data, np.arange(4), Changes())
    sums = [event for event in events if isinstance(event, tuple)]
    assert events.index("linear3") < events.index(sums[0]) < events.index("linear2") < events.index("linear1")
    assert sum(size for _, size in sums[:-1]) == sum(group.gradient.size for group in model.groups)
    assert sums[-1] == ("sum", 3)
    assert events[-1] == "finish"
    assert events.count("poke") == 3


@pytest.mark.parametrize("least", [0, 100, 5000, 1 << 20])
def test_buckets_are_every_gradient_once_and_as_large_as_asked(least):
    layers = [Flatten(), Linear(32, bias_multipliers=(2.0, 0.0)), Linear(16), Linear(3)]
    model = Sequential(layers, (4, 4, 1), backend="numpy")
    found = buckets(model, least)
    for bucket in found:
        bucket.gradient[:] += 1
    for group in model.groups:
        assert (group.gradient == 1).all()
    assert [bucket.layer for bucket in found] == sorted((bucket.layer for bucket in found), reverse=True)
    # The part at the start of a group is the remainder, and may be small.
    small = [bucket for bucket in found if bucket.gradient.nbytes < least]
    assert len(small) <= len(model.groups)
    for bucket in found:
        for layer in model.layers[: bucket.layer]:
            for parameter in layer.parameters:
                assert not np.shares_memory(parameter.gradient, bucket.gradient)


def test_a_rank_without_an_image_adds_nothing():
    world = World()
    world.size, world.rank = 3, 0
    shard = Slice(world)
    assert shard.take(0, 2) == slice(0, 1)
    assert shard.count == 0
    assert shard.summed(np.ones(2, np.float32))[0].tolist() == [0, 0]
