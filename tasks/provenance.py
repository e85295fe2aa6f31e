"""What a result was made by: the commit of this code, the packages it ran with, and the machine as far as bits depend on it."""

import functools
import os
import platform
import subprocess  # nosec B404 # programs of ours are started, each without a shell
from dataclasses import dataclass
from importlib.metadata import distributions, version
from pathlib import Path

from storage.files import fingerprint, sha256_file

UNKNOWN = "unknown"
_ROOT = Path(__file__).parent.parent
#: What runs: a change elsewhere, in a page of the documentation, makes no other result.
_CODE = ("flows", "tasks", "model", "storage", "pyproject.toml", "requirements.lock")
_GIT_SECONDS = 20.0
#: Instructions by which kernels of PyTorch, oneDNN and MKL are chosen, as Linux spells them on x86 and ARM.
_FEATURES = ("avx", "amx", "fma", "f16c", "asimd", "sve", "bf16", "i8mm")
#: Variables by which kernels are chosen instead.
_VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_MAX_CPU_ISA",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """`commit` is "unknown" of an installed wheel, or where git does not run, and `is_dirty` then None; else it is whether the
    code or the lock differs from that commit. `distributions_sha256` is of all installed packages, name==version, sorted."""

    commit: str
    is_dirty: bool | None
    lock_sha256: str
    distributions_sha256: str
    brickroad: str
    python: str
    torch: str
    platform: str
    cpu: str
    cpu_features: str
    variables: dict[str, str]

    def tags(self) -> dict[str, str]:
        """As tags of a run in MLflow, whose page shows the commit by its own name for it."""
        known = {"mlflow.source.git.commit": self.commit, "lock.sha256": self.lock_sha256}
        return {name: value for name, value in known.items() if value != UNKNOWN} | {
            "git.dirty": UNKNOWN if self.is_dirty is None else str(self.is_dirty).lower(),
            "distributions.sha256": self.distributions_sha256,
        }


@functools.cache
def provenance() -> Provenance:
    """Of this process. Asked once it is known: it takes a fifth of a second."""
    commit, is_dirty = _commit(_ROOT)
    lock = _ROOT / "requirements.lock"
    cpu, features = _cpu(Path("/proc/cpuinfo"))
    return Provenance(
        commit=commit,
        is_dirty=is_dirty,
        lock_sha256=sha256_file(lock) if lock.is_file() else UNKNOWN,
        distributions_sha256=fingerprint(installed_packages()),
        brickroad=version("brickroad"),
        python=platform.python_version(),
        torch=version("torch"),
        platform=platform.platform(),
        cpu=cpu,
        cpu_features=features,
        variables={name: os.environ[name] for name in _VARIABLES if name in os.environ},
    )


def installed_packages() -> list[str]:
    """name==version of all that can be imported here, sorted, each once."""
    return sorted({f"{one.name.lower()}=={one.version}" for one in distributions()})


def _commit(root: Path) -> tuple[str, bool | None]:
    """The commit of a checkout, and whether its code differs from it. An environment within somebody else's checkout is none."""
    if not (root / ".git").exists():
        return UNKNOWN, None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(
            root, "status", "--porcelain", "--", *(name for name in _CODE if (root / name).exists())
        )
    except (
        OSError,
        subprocess.SubprocessError,
    ):  # no git, one that will not read this checkout, or no commit yet
        return UNKNOWN, None
    return commit, bool(changed)


def _git(root: Path, *arguments: str) -> str:
    """What git answers about a checkout, whatever its variables say of another, and without its lock."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(  # nosec B603 B607 # git as the person has it on PATH; arguments are ours; no shell
        ["git", "-C", str(root), *arguments],
        env=environment | {"GIT_OPTIONAL_LOCKS": "0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=_GIT_SECONDS,
        text=True,
    ).stdout.strip()


def _cpu(cpuinfo: Path) -> tuple[str, str]:
    """What the CPU is called, and what it has of the instructions that matter; where Linux does not tell, what Python knows."""
    if not cpuinfo.is_file():
        return platform.processor() or platform.machine(), UNKNOWN
    lines = (line.partition(":") for line in cpuinfo.read_text(encoding="utf-8").splitlines())
    told = {name.strip(): value.strip() for name, _, value in lines}
    flags = told.get("flags", told.get("Features", "")).split()
    name = told.get("model name", platform.machine())
    return name, " ".join(sorted(flag for flag in flags if flag.startswith(_FEATURES)))
