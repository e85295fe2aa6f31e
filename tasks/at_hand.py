"""The data set that somebody names, here: of this workspace, or fetched from a store."""

from storage.datasets import Dataset, find_dataset
from storage.errors import NoSuchDatasetError
from storage.network import is_remote
from storage.shared_datasets import FOLDER, find_shared
from storage.store import Store
from storage.workspace import Workspace
from tasks.sharing import bring_dataset


def dataset_at_hand(reference: str, workspace: Workspace) -> Dataset:
    """A data set by name (the newest here), name@digest (a prefix will do), path, or address in a store.

    What is not here is fetched from the store that $BRICKROAD_STORE names. Raises NoSuchDatasetError if it is nowhere.
    """
    if is_remote(reference):
        address, _, rest = reference.rstrip("/").rpartition(f"/{FOLDER}/")
        if not address:
            raise NoSuchDatasetError(
                f"{reference}: is no data set of a store; name one such as s3://bucket/prefix/{FOLDER}/NAME/DIGEST"
            )
        return bring_dataset(find_shared(Store.at(address), rest.replace("/", "@", 1)), workspace)
    try:
        return find_dataset(workspace.datasets, reference)
    except NoSuchDatasetError as error:
        store = Store.chosen()
        if not store:
            raise
        try:
            shared = find_shared(store, reference)
        except NoSuchDatasetError:
            raise NoSuchDatasetError(f"{error}; nor is it in the store {store.address}") from None
    return bring_dataset(shared, workspace)
