"""What Prefect knows of flow runs: those on their way, those that failed, those to come. Read without Prefect."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from tasks.answers import Api, Database

MOST_RUNS = 20
ON_THEIR_WAY = ("RUNNING", "PENDING", "CANCELLING", "PAUSED")
FAILED = ("FAILED", "CRASHED")


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRun:
    """A flow run. Times are seconds since 1970; `last_sign_at` is the last that was heard of it, `progress` what it said."""

    id: str
    name: str
    flow: str
    state: str
    message: str
    expected_at: float | None
    began_at: float | None
    changed_at: float | None
    last_sign_at: float | None = None
    progress: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRuns:
    """All that an overview tells of Prefect."""

    on_their_way: tuple[FlowRun, ...] = ()
    failed: tuple[FlowRun, ...] = ()
    scheduled: tuple[FlowRun, ...] = ()


def from_database(database: Database) -> FlowRuns:
    """What the database of a workspace says. Raises Unanswered."""

    def runs(states: Sequence[str], condition: str, order: str) -> list[FlowRun]:
        marks = ",".join("?" * len(states))
        found = database.rows(
            "SELECT run.id, run.name, flow.name AS flow, run.state_type, run.state_name, run.expected_start_time, "  # nosec B608 # our own words, and ? for what is not
            "run.start_time, run.state_timestamp, state.message FROM flow_run AS run "
            "JOIN flow ON flow.id = run.flow_id LEFT JOIN flow_run_state AS state ON state.id = run.state_id "
            f"WHERE run.state_type IN ({marks}) AND {condition} ORDER BY {order} LIMIT {MOST_RUNS}",
            states,
        )
        return [_flow_run(dict(row)) for row in found]

    def with_signs(run: FlowRun) -> FlowRun:
        event = database.rows(
            "SELECT max(occurred) AS at FROM events WHERE resource_id = ?", [f"prefect.flow-run.{run.id}"]
        )
        progress = database.rows(
            "SELECT description, data, updated FROM artifact WHERE flow_run_id = ? AND type = 'progress' "
            "ORDER BY updated DESC LIMIT 1",
            [run.id],
        )
        at = event[0]["at"] if event else None
        return _signed(run, at, dict(progress[0]) if progress else None)

    root = "run.parent_task_run_id IS NULL"
    coming = runs(["SCHEDULED"], root, "run.expected_start_time")
    return FlowRuns(
        on_their_way=tuple(map(with_signs, runs(ON_THEIR_WAY, "1", "run.start_time"))),
        failed=tuple(runs(FAILED, root, "run.state_timestamp DESC")),
        scheduled=tuple(coming),
    )


def from_api(api: Api) -> FlowRuns:
    """What a server says. Raises Unanswered."""

    def runs(states: Sequence[str], order: str, *, roots: bool) -> list[FlowRun]:
        chosen: dict[str, Any] = {"state": {"type": {"any_": list(states)}}}
        if roots:
            chosen["parent_task_run_id"] = {"is_null_": True}
        found = api.ask("/flow_runs/filter", {"flow_runs": chosen, "sort": order, "limit": MOST_RUNS})
        ids = sorted({run["flow_id"] for run in found})
        flows = api.ask("/flows/filter", {"flows": {"id": {"any_": ids}}}) if ids else []
        names = {flow["id"]: flow["name"] for flow in flows}
        return [_flow_run(_flat(run, names)) for run in found]

    def with_signs(run: FlowRun) -> FlowRun:
        resource = {"id": [f"prefect.flow-run.{run.id}"]}
        events = api.ask("/events/filter", {"filter": {"resource": resource, "order": "DESC"}, "limit": 1})
        artifacts = {"flow_run_id": {"any_": [run.id]}, "type": {"any_": ["progress"]}}
        said = api.ask("/artifacts/filter", {"artifacts": artifacts, "sort": "UPDATED_DESC", "limit": 1})
        at = events["events"][0]["occurred"] if events["events"] else None
        return _signed(run, at, said[0] if said else None)

    return FlowRuns(
        on_their_way=tuple(map(with_signs, runs(ON_THEIR_WAY, "START_TIME_ASC", roots=False))),
        failed=tuple(runs(FAILED, "END_TIME_DESC", roots=True)),
        scheduled=tuple(runs(["SCHEDULED"], "EXPECTED_START_TIME_ASC", roots=True)),
    )


def _flat(run: Mapping[str, Any], flows: Mapping[str, str]) -> dict[str, Any]:
    state = run["state"] or {}
    return {
        **run,
        "flow": flows.get(run["flow_id"], ""),
        "state_timestamp": state.get("timestamp"),
        "message": state.get("message"),
    }


def _flow_run(row: Mapping[str, Any]) -> FlowRun:
    return FlowRun(
        id=str(row["id"]),
        name=row["name"],
        flow=row["flow"],
        state=row["state_name"] or row["state_type"],
        message=row["message"] or "",
        expected_at=_seconds(row["expected_start_time"]),
        began_at=_seconds(row["start_time"]),
        changed_at=_seconds(row["state_timestamp"]),
    )


def _signed(run: FlowRun, event_at: str | None, progress: Mapping[str, Any] | None) -> FlowRun:
    """The same run with the last that was heard of it, and how far it said it was, if that is not over."""
    signs = [run.changed_at, _seconds(event_at), _seconds(progress["updated"]) if progress else None]
    last = max((sign for sign in signs if sign is not None), default=None)
    is_under_way = progress is not None and float(json.loads(str(progress["data"]))) < 100
    said = str(progress["description"]) if progress and is_under_way else ""
    return replace(run, last_sign_at=last, progress=said)


def _seconds(stamp: str | None) -> float | None:
    if not stamp:
        return None
    moment = datetime.fromisoformat(stamp)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
