"""Where the workers of a build are: this machine's processes (tasks/workers.py), or a cluster's.

    start      the engine that is asked for                 -> Workers
    on_dask    places on a Dask cluster, ours or a running one; the one door to Dask
    on_ray     the same on Ray; the one door to Ray
    site       what a cluster's process must have in common with us, and what it does there

A build knows none of this: its steps call functions in workers, and get the same answers wherever those are.
"""
