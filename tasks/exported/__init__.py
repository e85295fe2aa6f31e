"""What stands beside the weights of an exported model that is no GPT-2: the classes by which Hugging Face's library runs it.

They are written into each such folder together with the modules of `model/` that the network is made of, unchanged but for
their imports.
"""
