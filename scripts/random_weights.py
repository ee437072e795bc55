"""Reproducible pseudo-random weights: the recipe of src/model/checkpoint/random.rs, bit for bit."""
import hashlib
import math

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15
# The first and the third of a word's four 16-bit lanes.
LOW_LANES = np.uint64(0x0000FFFF0000FFFF)
# Standard deviation of the sum of four 16-bit lanes.
LANES = math.sqrt((65536.0**2 - 1.0) / 3.0)
# Values made at a time: all intermediate arrays stay in the cache.
BLOCK = 1 << 15
STEPS = np.arange(1, BLOCK + 1, dtype=np.uint64) * np.uint64(GOLDEN)

# Gains of weights, by the first part that their name contains.
GAINS = (
    ("attn.qkv.", 1.4),
    ("cross_attn.projq.", 1.4),
    ("cross_attn.projk.", 1.4),
    ("attn.proj.", 0.7),
    ("head_local_features.fc1.", 1.2),
    ("head_local_features.fc2.", 1.2),
    ("mlp.fc1.", 1.2),
    ("mlp.fc2.", 0.7),
    ("patch_embed.proj.", 1.5),
    ("dpt.head.0.", 0.5),
    ("dpt.head.2.", 1.0),
    ("dpt.head.4.", 0.4),
    ("dpt.", 1.0),
)
# Tensors whose values are made as those of another name.
RENAMED = {
    "camera_token": "cls_token",
    "cam_dec.fc_fov.0.weight": "mask_token",
    "cam_dec.fc_fov.0.bias": "gamma",
}
RULES = {
    "gamma": (0.55, 0.13),
    "pos_embed": (0.0, 0.15),
    "cls_token": (0.0, 0.5),
    "register_tokens": (0.0, 0.5),
    "mask_token": (0.0, 0.02),
    "bias": (0.0, 0.05),
}


def rule(name, shape):
    """Offset and standard deviation of a tensor's values."""
    last = name.rsplit(".", 1)[-1]
    if last in RULES:
        return RULES[last]
    if len(shape) == 1:  # the scale of a norm
        return 1.0, 0.15
    # A transposed convolution whose stride is its kernel adds up its input channels once per pixel.
    transposed = "act_postprocess.0.1." in name or "act_postprocess.1.1." in name
    fan_in = shape[0] if transposed else math.prod(shape[1:])
    gain = next((gain for part, gain in GAINS if part in name), 1.0)
    return 0.0, gain / math.sqrt(max(fan_in, 1))


def random_tensor(seed, name, shape, each=map):
    """The tensor `name` of `shape`, float32. A thread pool's `map` as `each` makes its blocks on several threads."""
    for end, leaf in RENAMED.items():
        if name.endswith(end):
            name = f"recipe:{name}.{leaf}"
            break
    key = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "little")
    offset, deviation = rule(name, shape)
    offset, scale = np.float32(offset), np.float32(deviation / LANES)
    values = np.empty(math.prod(shape), np.float32)

    def fill(first):
        block = values[first : first + BLOCK]
        word = STEPS[: block.size] + np.uint64((key + first * GOLDEN) % 2**64)
        word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        word ^= word >> np.uint64(31)
        pairs = (word & LOW_LANES) + ((word >> np.uint64(16)) & LOW_LANES)
        sums = ((pairs + (pairs >> np.uint64(32))) & np.uint64(0xFFFFFFFF)).astype(np.int32) - np.int32(131070)
        block[:] = sums.astype(np.float32) * scale + offset

    for _ in each(fill, range(0, values.size, BLOCK)):
        pass
    return values.reshape(shape)
