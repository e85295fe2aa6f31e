"""The door to Arrow and Parquet: stored text, rows of documents, and tables for others."""
