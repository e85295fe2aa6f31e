"""What MLflow knows of trainings and registered versions. Read without MLflow: from its database, or by its API."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from tasks.answers import Api, Database

EXPERIMENT = "brickroad"
MOST_RUNS = 100
MOST_POINTS = 120  # of a curve: more is not to be seen at this size
_KEYS = ("train_loss", "val_loss", "val_loss_exact", "val_bits_per_byte", "tokens_per_second")
_URL_TAG = "prefect.flow_run_url"

Curve = list[tuple[int, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """A training. Times are seconds since 1970, losses nats per token; `val_loss` is exact once it is evaluated."""

    id: str
    name: str
    status: str
    experiment_id: str
    began_at: float
    ended_at: float | None
    last_sign_at: float
    dataset: str
    step: int
    steps: int | None
    train_loss: float | None
    val_loss: float | None
    val_bits_per_byte: float | None
    tokens_per_second: float | None
    prefect_url: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredVersion:
    """A registered version: its aliases, how good it is, and why it is what it is."""

    name: str
    version: int
    aliases: tuple[str, ...]
    reason: str
    made_at: float
    run_id: str
    val_loss: float | None
    val_bits_per_byte: float | None

    @property
    def is_champion(self) -> bool:
        """Whether it is the one that is served."""
        return "champion" in self.aliases


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedFacts:
    """All that an overview tells of MLflow. `runs` are the newest of `runs_total`; `needed` counts runs by their data set."""

    runs: tuple[TrainingRun, ...] = ()
    runs_total: int = 0
    needed: dict[str, int] = field(default_factory=dict)
    versions: tuple[RegisteredVersion, ...] = ()


class TrackingDatabase:
    """The database of a workspace. Its methods raise Unanswered."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def facts(self, model_name: str) -> TrackedFacts:
        """The newest runs, and the versions of a model."""
        ours = (
            "FROM runs JOIN experiments USING (experiment_id) "
            "WHERE experiments.name = ? AND runs.lifecycle_stage = 'active'"
        )
        newest = f"SELECT run_uuid {ours} ORDER BY start_time DESC LIMIT {MOST_RUNS}"  # our own words
        rows = self._database.rows(
            f"SELECT runs.* {ours} ORDER BY start_time DESC LIMIT {MOST_RUNS}", [EXPERIMENT]
        )
        numbers = self._by_run(
            f"SELECT run_uuid, key, iif(is_nan, 'nan', value) AS value, step, timestamp FROM latest_metrics WHERE run_uuid IN ({newest})"  # nosec B608 # our own words
        )
        words = self._by_run(
            "SELECT run_uuid, key, value FROM params WHERE key IN ('dataset', 'training.steps') "  # nosec B608 # our own words
            f"AND run_uuid IN ({newest})"
        )
        urls = self._by_run(
            f"SELECT run_uuid, key, value FROM tags WHERE key = '{_URL_TAG}' AND run_uuid IN ({newest})"  # nosec B608 # our own words
        )
        runs = [
            _training_run(
                {**dict(row), "run_id": row["run_uuid"]},
                numbers.get(row["run_uuid"], {}),
                {key: one["value"] for key, one in words.get(row["run_uuid"], {}).items()},
                {key: one["value"] for key, one in urls.get(row["run_uuid"], {}).items()},
            )
            for row in rows
        ]
        total = self._database.rows(f"SELECT count(*) AS runs {ours}", [EXPERIMENT])
        needed = self._database.rows(
            "SELECT params.value AS dataset, count(*) AS runs FROM params JOIN runs USING (run_uuid) "
            "WHERE params.key = 'dataset' AND runs.lifecycle_stage = 'active' GROUP BY params.value"
        )
        return TrackedFacts(
            runs=tuple(runs),
            runs_total=total[0]["runs"] if total else 0,
            needed={row["dataset"]: row["runs"] for row in needed},
            versions=tuple(self._versions(model_name)),
        )

    def curve(self, run_id: str, key: str) -> Curve:
        """(step, value) by step, thinned to what can be seen."""
        rows = self._database.rows(
            "SELECT step, value FROM metrics WHERE run_uuid = ? AND key = ? AND NOT is_nan ORDER BY step",
            [run_id, key],
        )
        return _thinned((row["step"], row["value"]) for row in rows)

    def _by_run(self, query: str) -> dict[str, dict[str, dict[str, Any]]]:
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for row in self._database.rows(query, [EXPERIMENT]):
            found.setdefault(row["run_uuid"], {})[row["key"]] = dict(row)
        return found

    def _versions(self, model_name: str) -> Iterable[RegisteredVersion]:
        rows = self._database.rows(
            "SELECT * FROM model_versions WHERE name = ? AND current_stage != 'Deleted_Internal' "
            "ORDER BY version DESC",
            [model_name],
        )
        named = self._database.rows(
            "SELECT version, alias FROM registered_model_aliases WHERE name = ?", [model_name]
        )
        tagged = self._database.rows(
            "SELECT version, key, value FROM model_version_tags WHERE name = ?", [model_name]
        )
        for row in rows:
            number = row["version"]
            aliases = sorted(one["alias"] for one in named if one["version"] == number)
            tags = {one["key"]: one["value"] for one in tagged if one["version"] == number}
            yield _version(dict(row), aliases, tags)


class TrackingServer:
    """A tracking server. Its methods raise Unanswered."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def facts(self, model_name: str) -> TrackedFacts:
        """The newest runs, and the versions of a model."""
        ours = {"filter": f"name = '{EXPERIMENT}'", "max_results": 1}
        experiments = self._api.ask("/api/2.0/mlflow/experiments/search", ours).get("experiments", [])
        body = {"experiment_ids": [one["experiment_id"] for one in experiments], "max_results": 1000}
        if not experiments:  # nothing was told to it yet
            return TrackedFacts()
        found = self._api.ask("/api/2.0/mlflow/runs/search", body | {"order_by": ["start_time DESC"]})
        runs = [_training_run(*_parts(run)) for run in found.get("runs", [])]
        needed: dict[str, int] = {}
        for run in runs:
            if run.dataset:  # one that was not begun by us may have none
                needed[run.dataset] = needed.get(run.dataset, 0) + 1
        chosen = quote(f"name='{model_name}'")
        versions = self._api.ask(f"/api/2.0/mlflow/model-versions/search?filter={chosen}&max_results=1000")
        return TrackedFacts(
            runs=tuple(runs[:MOST_RUNS]),
            runs_total=len(runs),
            needed=needed,
            versions=tuple(sorted(self._versions(model_name, versions), key=lambda one: -one.version)),
        )

    def curve(self, run_id: str, key: str) -> Curve:
        """(step, value) by step, thinned to what can be seen."""
        asked = f"/api/2.0/mlflow/metrics/get-history?run_id={run_id}&metric_key={key}&max_results=25000"
        points = self._api.ask(asked).get("metrics", [])
        return _thinned(sorted((int(point.get("step", 0)), float(point["value"])) for point in points))

    def _versions(self, model_name: str, found: Mapping[str, Any]) -> Iterable[RegisteredVersion]:
        versions = found.get("model_versions", [])
        if not versions:
            return
        model = self._api.ask(f"/api/2.0/mlflow/registered-models/get?name={quote(model_name)}")
        named = model["registered_model"].get("aliases", [])
        for row in versions:
            aliases = sorted(one["alias"] for one in named if one["version"] == row["version"])
            tags = {one["key"]: one["value"] for one in row.get("tags", [])}
            yield _version({**row, "creation_time": row["creation_timestamp"]}, aliases, tags)


def _parts(run: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, str], dict[str, str]]:
    """A run of the API as a row, its metrics, its parameters and its tags."""
    info, data = dict(run["info"]), run["data"]
    metrics = {one["key"]: one for one in data.get("metrics", [])}
    params, tags = ({one["key"]: one["value"] for one in data.get(part, [])} for part in ("params", "tags"))
    return {**info, "name": info.get("run_name", "")}, metrics, params, tags


def _training_run(
    row: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, Any]],
    params: Mapping[str, str],
    tags: Mapping[str, str],
) -> TrainingRun:
    numbers = {key: _finite(metrics[key]["value"]) for key in _KEYS if key in metrics}
    began = float(row["start_time"]) / 1000
    ended = float(row["end_time"]) / 1000 if row.get("end_time") else None
    signs = [float(one["timestamp"]) / 1000 for one in metrics.values()]
    steps = params.get("training.steps")
    return TrainingRun(
        id=row["run_id"],
        name=row["name"] or row["run_id"],
        status=row["status"],
        experiment_id=str(row["experiment_id"]),
        began_at=began,
        ended_at=ended,
        last_sign_at=max([began, *signs]),
        dataset=params.get("dataset", ""),
        step=int(metrics["train_loss"].get("step", 0)) if "train_loss" in metrics else 0,
        steps=int(steps) if steps and steps.isdigit() else None,
        train_loss=numbers.get("train_loss"),
        val_loss=numbers.get("val_loss_exact") or numbers.get("val_loss"),
        val_bits_per_byte=numbers.get("val_bits_per_byte"),
        tokens_per_second=numbers.get("tokens_per_second"),
        prefect_url=tags.get(_URL_TAG),
    )


def _finite(value: Any) -> float | None:
    """A number, or None for one that is none: JSON has no word for it."""
    number = float(value)
    return number if math.isfinite(number) else None


def _version(row: Mapping[str, Any], aliases: list[str], tags: Mapping[str, str]) -> RegisteredVersion:
    return RegisteredVersion(
        name=row["name"],
        version=int(row["version"]),
        aliases=tuple(aliases),
        reason=(row.get("description") or "").split("\n")[0],
        made_at=float(row["creation_time"]) / 1000,
        run_id=row.get("run_id") or "",
        val_loss=_finite(tags.get("val_loss", "nan")),
        val_bits_per_byte=_finite(tags.get("val_bits_per_byte", "nan")),
    )


def _thinned(points: Iterable[tuple[int, float]]) -> Curve:
    """The last of every so many points, and the very last."""
    known = list(points)
    stride = -(-len(known) // MOST_POINTS) or 1
    return known[::-1][::stride][::-1]
