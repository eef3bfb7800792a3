"""Makes the lane's model: a Llama of 8 small layers with random weights, and a tokenizer of one token a byte.

    build/vllm-venv/bin/python tests/vllm/model.py DIRECTORY

Runs in the lane's own environment, so it imports nothing of this project. What the model says is noise; what matters is
that vLLM serves it as it serves any other.
"""

import json
import struct
import sys
from pathlib import Path

# Some milliseconds a step: with 2 layers of 64 the server's own event loop was the bottleneck, and its page showed no
# queue while 16 clients stood in it. vLLM's attention on CPUs takes heads of 32 and more.
HIDDEN, LAYERS, HEADS, INNER = 256, 8, 4, 512
SPECIAL = ("<s>", "</s>", "<pad>")
VOCABULARY = 256 + len(SPECIAL)
POSITIONS = 2048

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": POSITIONS,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "torch_dtype": "float32",
}


def shapes() -> dict[str, tuple[int, ...]]:
    """Name of each weight, as Llama's are called -> its shape."""
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (VOCABULARY, HIDDEN),
    }
    for layer in range(LAYERS):
        place = f"model.layers.{layer}"
        found |= {f"{place}.self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
        found |= {f"{place}.mlp.{name}_proj.weight": (INNER, HIDDEN) for name in ("gate", "up")}
        found[f"{place}.mlp.down_proj.weight"] = (HIDDEN, INNER)
        found |= {f"{place}.{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    return found


def byte_letters() -> list[str]:
    """The letter that stands for each byte in a byte-level tokenizer (GPT-2's): itself if it prints, else one above."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in printing)
    letters = {byte: chr(byte) for byte in printing} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]


def tokenizer() -> dict[str, object]:
    names = [*SPECIAL, *byte_letters()]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": name, "special": True, **flags} for i, name in enumerate(SPECIAL)],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {"type": "BPE", "vocab": {name: i for i, name in enumerate(names)}, "merges": []},
    }


def weights(seed: int = 1) -> bytes:
    """All weights as a safetensors file: the length of a JSON header, the header, the numbers."""
    import numpy as np  # of the lane's environment

    random = np.random.default_rng(seed)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    pieces: list[bytes] = []
    at = 0
    for name, shape in shapes().items():
        norm = name.endswith("norm.weight")
        values = np.ones(shape) if norm else random.normal(0.0, 0.02, shape)
        piece = values.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + len(piece)]}
        pieces.append(piece)
        at += len(piece)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(pieces)


def make(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    texts = {
        "config.json": CONFIG,
        "generation_config.json": {"bos_token_id": 0, "eos_token_id": 1},
        "tokenizer.json": tokenizer(),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "pad_token": "<pad>",
            "model_max_length": POSITIONS,
        },
    }
    for name, content in texts.items():
        (directory / name).write_text(json.dumps(content, ensure_ascii=False))
    (directory / "model.safetensors").write_bytes(weights())


if __name__ == "__main__":
    make(Path(sys.argv[1]))
