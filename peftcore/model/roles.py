"""The vocabulary of roles: names for kinds of places that any backbone may have."""

from peftcore.errors import TargetError, nearest

#: Every role with what it names. A backbone may add its own as ``x-NAME``.
ROLES: dict[str, str] = {
    "model": "the whole network without heads; what enters it is the batch",
    "embeddings": "token, patch or frame embedding table or projection",
    "embeddings.position": "position embedding",
    "block": "one layer of the stack; its output is the residual stream",
    "attention": "self-attention module of a block, output projection included",
    "attention.query": "projection of self-attention to queries",
    "attention.key": "projection of self-attention to keys",
    "attention.value": "projection of self-attention to values",
    "attention.qkv": "one projection to queries, keys and values together",
    "attention.output": "projection of the attended values back to the residual stream",
    "cross_attention": "attention of a decoder to an encoder",
    "cross_attention.query": "projection of cross-attention to queries",
    "cross_attention.key": "projection of cross-attention to keys",
    "cross_attention.value": "projection of cross-attention to values",
    "cross_attention.output": "output projection of cross-attention",
    "mlp": "feed-forward module of a block",
    "mlp.gate": "gating projection of a gated feed-forward module",
    "mlp.up": "first projection of a feed-forward module, to its inner width",
    "mlp.down": "last projection of a feed-forward module, back to the residual stream",
    "mlp.experts.gate_up": "of all experts, gating and first projection in one",
    "mlp.experts.gate": "of all experts, the gating projection",
    "mlp.experts.up": "of all experts, the first projection",
    "mlp.experts.down": "of all experts, the last projection",
    "router": "what chooses the experts of each token; `all-linear` leaves it out",
    "norm": "normalisation layer",
    "conv": "convolution",
    "patch": "projection of image, video or point patches",
    "projector": "projection of what one network returns to what another reads",
    "pooler": "projection between the last block and the head",
    "head": "what the task puts on top: classifier, language-model head",
    "linear": "a linear layer of a model that no plugin knows",
    "unused": "weights that the forward pass never reads; targets do not choose them",
}


def check_role(name: str) -> None:
    """Raise TargetError for a role that is neither in the vocabulary nor ``x-...``."""
    if name not in ROLES and not name.startswith("x-"):
        raise TargetError(f"{name!r} is not a role of the vocabulary.{nearest(name, ROLES)}")
