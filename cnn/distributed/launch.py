"""Whether a launcher (mpiexec, srun) started this process as one of several, read from its environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """What the launcher says: this process's rank and the number of processes, None if it does not say."""

    launcher: str
    rank: int
    size: int | None
    local_size: int | None = None
    """The processes on this host."""


# The first that matches counts. Open MPI's and PMIx's launchers set PMIX_RANK, MPICH's and Intel's Hydra and
# `srun --mpi=pmi2` PMI_RANK. A batch script of Slurm has a SLURM_PROCID without being a step of several tasks.
VARIABLES = (
    ("mpiexec of Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("mpiexec", "PMI_RANK", "PMI_SIZE"),
    ("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("a launcher with PMIx", "PMIX_RANK", None),
)

LOCAL = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")
"""Where Open MPI's launcher and Hydra say how many processes are on this host."""


def launched(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """The launch of this process, None if it was started by itself."""
    local = next((environment[name] for name in LOCAL if environment.get(name, "").isdecimal()), None)
    for launcher, rank, size in VARIABLES:
        if environment.get(rank, "").isdecimal() and (size is None or environment.get(size, "").isdecimal()):
            return Launch(
                launcher,
                int(environment[rank]),
                int(environment[size]) if size else None,
                None if local is None else int(local),
            )
    return None


def speaks() -> bool:
    """Whether this process talks to the user: it was started by itself, or is the first of its launch."""
    launch = launched()
    return launch is None or launch.rank == 0
