"""How much of this machine to use."""

import os


def chosen_workers(configured: int | None) -> int:
    """Workers to use: as configured, else one for each CPU that this process may use."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return configured or available or 1
