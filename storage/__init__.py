"""DISK: every format, path, checksum and atomic write of brickroad. No torch but in `checkpoints`; no orchestrator, no tracker.

shards        the files of a corpus: found, decompressed, proved complete                    Shard
  | bytes
  v
forms         tar of texts, JSON lines, Parquet, plain text, archives of shards             DocumentBatch
  | documents
  v
documents     the stored text of one shard: Parquet, with a record that is written last     DocumentPart
  | text
  v
tokens        the token files of one part, then of the whole data set                       TokenPart, TokenFile
  |
  v
blocks        large files, put together and checked block by block, by any number of processes  Block
  |
  v
dataset_writer  parts become a data set, which gets its name last                            DatasetWriter
manifests     what a data set says of itself                                                Manifest
datasets      train.bin, val.bin, tokenizer.json, documents.parquet, manifest.json          Dataset
exports       the same for other programs
checkpoints   weights, optimizer and facts of a training step                               Checkpoint
hugging_face  models in the layout of Hugging Face's library                                ModelFolder

blanks        line ends and blanks as Hugging Face's OpenWebText has them
examined      what was found in the documents of a shard, to be compared with all others      ExaminedFiles
network       how addresses are shown, and what is done when the network fails
remote        the files behind a network, as their servers list them                          RemoteFile
remote_streams  their bytes: all of one version, or an error of the network
store         objects that machines share: in a folder or a bucket (shelves)                   Store
shared_datasets  finished data sets in a store                                               SharedDataset
known_files   what was found in a file that has not changed since
tar_stream    what forms reads from: a tar as a stream, and the proof that it is whole
xz_index      what an .xz file expands to, without decompressing
files         atomic writes, digests, locks: what all of the above stand on
workspace     where each of them lies below one folder
errors        what can be wrong with the world
"""
