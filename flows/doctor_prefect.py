"""What `brickroad doctor` looks at of Prefect's server: answer, password, database, version, clock; pools, workers, limit, late runs."""

import importlib.metadata
from typing import Any

from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL

from flows.doctor import Checks, Finding
from flows.limits import GPU
from flows.services import POOLS
from tasks.answers import Api, Unanswered

_MOST_SECONDS_APART = 10.0  # of the clocks of server and machine: leases and schedules are told by both
_MOST = 200  # that the server gives at once
_SET_UP = "run: python -m flows.set_up prefect.yaml"


def checks_of_prefect(address: str | None) -> Checks:
    """The checks by name."""
    return {"Prefect": lambda: _prefect(address or PREFECT_API_URL.value())}


def _prefect(address: str | None) -> list[Finding]:
    if not address:
        found = "no server runs: each run starts its own (brickroad up keeps one)"
        return [Finding(what="Prefect", ok=True, found=found)]
    api = Api(address, PREFECT_API_AUTH_STRING.value())
    try:
        api.text("/health")
        server = [_server(api)]
        return server + (_work(api) if server[0].ok else [])
    except Unanswered as error:
        way_out = "look whether it runs, or unset PREFECT_API_URL: each run then starts its own"
        return [Finding(what="Prefect", ok=False, found=str(error), way_out=way_out)]


def _server(api: Api) -> Finding:
    """Database, password, version and clock: the first that is wrong."""

    def wrong(found: str, way_out: str) -> Finding:
        return Finding(what="Prefect", ok=False, found=f"{api.address} {found}", way_out=way_out)

    try:
        api.text("/ready")
    except Unanswered as error:
        return wrong(f"answers, and its database does not ({_why(error)})", "start its database")
    try:
        version = str(api.ask("/admin/version"))
    except Unanswered as error:
        if error.status not in (401, 403):
            raise
        return wrong("refuses the user or the password", "set PREFECT_API_AUTH_STRING to user:password")
    own = importlib.metadata.version("prefect")
    if version != own:
        return wrong(
            f"is version {version}, and here is {own}", f"install Prefect {own} there, or {version} here"
        )
    ahead = api.seconds_ahead("/health") or 0.0
    if abs(ahead) > _MOST_SECONDS_APART:
        return wrong(f"has a clock {ahead:+.0f} s from this one", "have both set by NTP: leases go by them")
    return Finding(what="Prefect", ok=True, found=f"{api.address} answers, version {version}")


def _why(error: Unanswered) -> str:
    return str(error).rpartition(": ")[2]


def _work(api: Api) -> list[Finding]:
    """What starts runs by itself; a server without our deployments has none of it, and that is no fault."""
    deployments = _all(api, "/deployments/filter")
    ours = [one for one in deployments if str(one["entrypoint"]).startswith("flows.")]
    if not ours:
        found = "none: nothing starts by itself (brickroad up, or python -m flows.set_up prefect.yaml)"
        return [Finding(what="deployments", ok=True, found=found)]
    paused = [one["name"] for one in ours if one["paused"]]
    facts = f"{len(ours)}" + (f", of which paused: {', '.join(paused)}" if paused else "")
    pools = sorted({str(one["work_pool_name"]) for one in ours} | set(POOLS))
    online = {pool: _online(api, pool) for pool in pools}
    return [
        Finding(what="deployments", ok=True, found=facts),
        *(_pool(pool, workers) for pool, workers in online.items()),
        _limit(api),
        _late(api, online),
    ]


def _all(api: Api, path: str, body: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.ask(path, {"limit": _MOST} | (body or {}))
    return found


def _online(api: Api, pool: str) -> int | None:
    """How many workers of a pool are at work; None if there is no such pool."""
    try:
        workers = _all(api, f"/work_pools/{pool}/workers/filter")
    except Unanswered as error:
        if error.status != 404:
            raise
        return None
    return sum(worker["status"] == "ONLINE" for worker in workers)


def _pool(pool: str, workers: int | None) -> Finding:
    if workers is None:
        return Finding(what=f"pool {pool}", ok=False, found="is not there", way_out=_SET_UP)
    start = f"run: prefect worker start --pool {pool} --type process" + (" --limit 1" if pool == GPU else "")
    found = f"{workers} worker{'s' if workers != 1 else ''} online"
    return Finding(what=f"pool {pool}", ok=workers > 0, found=found, way_out=start)


def _limit(api: Api) -> Finding:
    try:
        limit = api.ask(f"/v2/concurrency_limits/{GPU}")
    except Unanswered as error:
        if error.status != 404:
            raise
        return Finding(
            what="limit of the GPU", ok=False, found="is not there: no training begins", way_out=_SET_UP
        )
    found = f"{limit['limit']} at a time, {limit['active_slots']} now"
    return Finding(
        what="limit of the GPU",
        ok=limit["active"] and limit["limit"] > 0,
        found=found if limit["active"] else "is switched off: nothing keeps two trainings apart",
        way_out=f"run: prefect gcl enable {GPU}; prefect gcl update {GPU} --limit 1",
    )


def _late(api: Api, online: dict[str, int | None]) -> Finding:
    """Runs whose time has come and that nothing has taken: behind another run they wait, without a worker they wait for ever."""
    runs = _all(api, "/flow_runs/filter", {"flow_runs": {"state": {"name": {"any_": ["Late"]}}}})
    stuck = sorted({str(run["work_pool_name"]) for run in runs if not online.get(run["work_pool_name"])})
    found = f"{len(runs)}" + (" (or more)" if len(runs) == _MOST else "") if runs else "none"
    waiting = f", of pools without a worker: {', '.join(stuck)}" if stuck else ""
    return Finding(what="late runs", ok=not stuck, found=found + waiting, way_out="start a worker of each")
