"""The flow that is the whole road: corpus to data set to trained model to evaluation to registry."""

from dataclasses import dataclass, replace
from pathlib import Path

from prefect import flow

from flows.build_dataset import build_dataset
from flows.limits import gpu_slot
from flows.register_candidate import put_to_the_gate
from flows.train_model import TrainedAndEvaluated, train_model
from storage.workspace import Workspace
from tasks.at_work import leased
from tasks.build import BuiltDataset
from tasks.corpora import CorpusConfig
from tasks.engines.start import EngineConfig
from tasks.registry import FoundModel, ModelVersion
from tasks.tracking import refuse_unwritable_artifacts
from tasks.training_request import TrainingRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineResult:
    """Everything that a run of the road made."""

    built: BuiltDataset
    model: TrainedAndEvaluated
    version: ModelVersion


@flow(name="run-pipeline", flow_run_name="road from {config.shown_corpus}", persist_result=False)
@leased
def run_pipeline(
    config: CorpusConfig | None = None,
    request: TrainingRequest | None = None,
    workspace: Path | None = None,
    engine: EngineConfig | None = None,
    store: str | None = None,
) -> PipelineResult:
    """Corpus to registered GPT.

    Args:
        config: what to build from, and how; by default the documentation inside Python, which needs no network.
        request: how to train; its data set is the one that was built.
        workspace: the folder that holds everything; by default $BRICKROAD_WORKSPACE, else ./workspace.
        engine: where shards are read and encoded: on this machine, or on a cluster of Dask or Ray, to the same bytes.
        store: what machines without a common file system share: s3://bucket/prefix, gs://bucket/prefix or a folder; by default
            $BRICKROAD_STORE; empty: none.
    """
    place = Workspace.at(workspace)
    refuse_unwritable_artifacts(place)
    built = build_dataset(config or CorpusConfig(), workspace=place.root, engine=engine, store=store)
    request = replace(request or TrainingRequest(), dataset=built.dataset.reference)
    with gpu_slot():
        model = train_model(request, workspace=place.root)
        found = FoundModel(path=model.trained.checkpoint, run_id=model.trained.run_id)
        version = put_to_the_gate(found, model.evaluation, place)
    return PipelineResult(built=built, model=model, version=version)
