"""COMPUTE: everything that learns, in NumPy and PyTorch alone. No files, no network, no orchestrator, no tracker.

The way of a text through this package, one module a stop:

    tokenizer.py         text -> token ids and back, for every text there is
    config.py            what to build and how to train it, and the presets of the ladder
    words.py             what a text has in common with another: hashes of its words and n-grams
    references.py        what a model must beat: uniform, unigram and bigram in closed form

    order.py             which windows of the tokens make the batch of a step: a pure function
    batches.py           those windows -> tensors (inputs, targets) on the device
    device.py            CPU, CUDA or MPS; float32 or bfloat16

    attention.py         softmax(Q K^T / sqrt(d)) V, twice: written out, and PyTorch's fused kernel
    blocks.py            attention + feed-forward + normalisation = one Transformer block
    network.py           the bigram table and the GPT, built from a config
    encoder_decoder.py   the other half of the Transformer: the encoder, and cross-attention

    training.py          `for report in training.steps(): ...`, resumable to the bit
    evaluation.py        exact loss, perplexity and bits per byte
    cache.py             keys and values of what was read, so that a next token costs one token
    sampling.py          scores -> the next token
    generation.py        ids out, token by token, for several prompts at once
    writing.py           those ids -> text, which stops where it shall
    gpt2.py              our GPT under the names of Hugging Face's GPT-2, and back
    quantization.py      matrices in 8 and 4 bits a number
    side_by_side.py      several networks measured on the same text, by turns
    paired.py            how much better one is, and how sure that is

Tokens arrive as one-dimensional NumPy arrays, most often `np.memmap`, and are never loaded whole.
"""
