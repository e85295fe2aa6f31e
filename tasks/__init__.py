"""ONCE: retryable units of work, each safe to run twice: get, compute, put. The only place where model and storage meet.

    corpora        what there is to read, by name; downloads          -> shards
    stdlib_docs    the default corpus: Python's own documentation     -> shards
    ingest         shards -> stored text, in worker processes         -> DocumentPart
    recall         which shards need not be read again: their files have not changed
    characters     what is counted in them, by split                  -> SplitCounts
    quality        which documents are left out: what may be asked for
    languages      which language a text is in
    examine        stored text -> what drops a document, in worker processes  -> ExaminedFiles
    dropped        all of that -> which documents are dropped, and for which   -> Dropped
    tokenizers     which one, learnt or given, and what encodes with it
    encode         stored text -> tokens, in worker processes         -> TokenPart
    encode_afar    the same, by hosts that have workspaces of their own; shared_tokens is how they come back
    reuse          tokens that an earlier data set has already        -> TokenPart
    dataset        the steps of a build                               -> Dataset
    sharing        what a build brings from a store, and puts there
    build          all of them in order; steps run them as plain functions, the flow has them as tasks
    at_hand        a name -> Dataset, from here or from a store
    training       Dataset -> checkpoints and an MLflow run           -> TrainedModel
    evaluation     model and Dataset -> exact losses                  -> Evaluation
    quantization   model -> a smaller one, measured beside it         -> QuantizationReport
    registry       a trained model -> a version with an alias; and back: a reference -> a loaded model
    hugging_face   a model -> a folder for Hugging Face's library; and back   -> ExportedModel, ImportedModel
    tour           the course, a stop a module                        -> sights
    pictures       loss curves
    tracking       the one door to MLflow (and served_model.py, which MLflow runs by itself)
    engine         how a function becomes a Prefect task
    watch          progress on the terminal and in the Prefect UI

Each module has plain functions, which tests and notebooks call, and below them thin tasks, which flows call. What
crosses a task's boundary is a small frozen dataclass, never text, tokens or tensors.
"""
