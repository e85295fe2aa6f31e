"""WHEN: one file is one flow of the same name, and reads as prose. And the command line.

build_dataset     shards -> data set
train_model       data set -> checkpoints and an MLflow run
evaluate_model    model, data set -> exact losses
quantize_model    model -> a smaller one, and what that costs
run_pipeline      the whole road, from corpus to registered model
command_line      `brickroad`; its commands are in the modules named …_commands
prefect_server    a server for one run, where none is running
services          `brickroad up`
environment       the settings of Prefect and MLflow that hold before either is imported
"""
