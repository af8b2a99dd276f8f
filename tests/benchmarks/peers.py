"""Run in the peers' own environment: entropy of every head by TransformerLens or nnsight, against plain sdpa.

Prints one line of JSON: the median ratio to a plain sdpa forward of the same size, and both times.
"""

import json
import statistics
import sys
import tempfile
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import torch

# Makes torchvision loadable beside a torch it was not built for; transformers needs that. By its file: the peers'
# environment has neither of the two packages.
_FILE = Path(__file__).parents[2] / "book/companion/pretrained/_torchvision.py"
_spec = spec_from_file_location("torchvision_operators", _FILE)
torchvision_operators = module_from_spec(_spec)
_spec.loader.exec_module(torchvision_operators)
torchvision_operators.declare_missing_operators()

LAYERS, WIDTH, HEADS, TOKENS, WORDS = 6, 256, 8, 1024, 1000


def entropy(maps):
    """Return the entropy of every row of explicit maps."""
    return -torch.xlogy(maps, maps).sum(-1)


def plain_model(attention="sdpa", head=False, positions=TOKENS):
    """Return a GPT-2 of the benchmark's size with random weights."""
    import transformers

    torch.manual_seed(0)
    sizes = {"n_layer": LAYERS, "n_embd": WIDTH, "n_head": HEADS, "n_positions": positions, "vocab_size": WORDS}
    config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    config._attn_implementation = attention
    return (transformers.GPT2LMHeadModel if head else transformers.GPT2Model)(config).eval()


def transformer_lens(ids):
    """Return what records entropies with TransformerLens' hooks on the attention pattern."""
    from tokenizers import Tokenizer, models
    from transformer_lens import TransformerBridge
    from transformers import PreTrainedTokenizerFast

    # It asks for a tokeniser in a folder; this one is never used, and needs no download.
    words = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    with tempfile.TemporaryDirectory() as folder:
        given = {"unk_token": "<unk>", "pad_token": "<unk>", "bos_token": "<unk>"}
        PreTrainedTokenizerFast(tokenizer_object=words, **given).save_pretrained(folder)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        model = TransformerBridge.boot_transformers(
            "gpt2", hf_model=plain_model("eager", head=True), tokenizer=tokenizer
        )

    def run():
        found = []
        hooks = [(lambda name: name.endswith("hook_pattern"), lambda maps, hook: found.append(entropy(maps)))]
        model.run_with_hooks(ids, return_type=None, fwd_hooks=hooks)
        assert len(found) == LAYERS and found[0].shape == (1, HEADS, TOKENS)

    return run


def nnsight(ids):
    """Return what records entropies with nnsight, from an eager model's attention weights."""
    from nnsight import NNsight

    model = NNsight(plain_model("eager"))

    def run():
        found = []
        with model.trace(ids):
            for block in model.h:
                found.append(entropy(block.attn.output[1]).save())
        assert len(found) == LAYERS and found[0].shape == (1, HEADS, TOKENS)

    return run


def main():
    """Time one peer against plain sdpa, in turn."""
    torch.set_num_threads(1)
    ids = torch.randint(0, WORDS, (1, TOKENS))
    model = plain_model()
    peer = {"transformer_lens": transformer_lens, "nnsight": nnsight}[sys.argv[1]](ids)

    def plain():
        model(input_ids=ids, use_cache=False)

    def seconds(function):
        began = time.perf_counter()
        function()
        return time.perf_counter() - began

    with torch.no_grad():
        peer(), plain()
        pairs = [(seconds(peer), seconds(plain)) for _ in range(7)]
    ratio = statistics.median(a / b for a, b in pairs)
    first, second = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(json.dumps({"ratio": ratio, "seconds": first, "plain": second}))


if __name__ == "__main__":
    main()
