"""What a call of a model tells of its rows, read from the names of its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from peftcore.model.context import Context
from peftcore.model.walk import argument_names

#: Arguments that hold the tokens: [B, L] as numbers, [B, L, d] as vectors.
_TOKENS = ("input_ids", "inputs_embeds", "src")
#: Arguments that hold what was computed of tokens in earlier calls.
_CACHES = ("past_key_values", "cache_params")
#: Arguments that hold where sequences that lie one behind the other begin and end, [n + 1].
_BORDERS = ("cu_seq_lens_q", "cu_seqlens")
#: Arguments whose first axis need not be rows.
_NOT_OF_ROWS = (*_BORDERS, "position_ids", "head_mask")
#: Settings of a model that number a token which is real, even where it pads too.
_REAL = ("bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id")


def arguments(entry: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a call of a module is given, by the names of its ``forward``."""
    return {**dict(zip(argument_names(entry), args, strict=False)), **kwargs}


def batch_of(entry: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int | None:
    """Return the number of rows of a call: those of its tokens, else of the first tensor."""
    call = arguments(entry, args, kwargs)
    for name in (*_TOKENS, *argument_names(entry), *call):
        value = call.get(name)
        if isinstance(value, Tensor) and value.dim() and name not in _NOT_OF_ROWS:
            return value.shape[0]
    return None


def read_call(
    call: Mapping[str, Any], *, causal: bool, padding: int | None = None, window: int | None = None
) -> Context:
    """Say which tokens of a call are real, which are the prompt's, and which were generated.

    The prompt is every real token. Where a causal model gets labels, the prompt of a sequence ends
    at its first label; one whose first real token is labelled is a prompt throughout. A single
    token on top of a cache was generated; several are a further part of a prompt.

    Several sequences in a row are told by ``position_ids`` that begin anew, ``seq_idx``,
    ``cu_seqlens``, or a mask of pairs of tokens.

    Args:
        call: arguments by name.
        causal: the model predicts the next token.
        padding: number of the token that pads rows.
        window: as in :class:`Context`.
    """
    tokens = _tokens(call)
    if tokens is None:
        return Context()
    cached = tokens_in(next((v for n in _CACHES if (v := call.get(n)) is not None), None))
    # the length of a static cache is a tensor; to look into it would wait for the device
    continued = not isinstance(cached, int) or cached > 0
    given = _mask_given(call)
    told = given is not None or call.get("attention_mask") is not None
    mask = _real_tokens(given, tokens, cached)
    sequences = _sequences(call, given, mask) if tokens.shape[1] > 1 and not continued else None
    return Context(
        mask,
        _before_answer(mask, call.get("labels"), sequences) if causal else mask,
        generated=causal and continued and tokens.shape[1] == 1,
        offset=cached if isinstance(cached, int) else int(cached is None),
        sequences=sequences,
        unmasked=None if told or continued else _ends(tokens, padding),
        window=window,
    )


def read_labels(labels: Any) -> Context:
    """Say what the labels of a decoder tell of its tokens, of which one predicts each label.

    Real are those up to the last label, and the prompt ends with the token that predicts the first
    one. A row without labels is real, and a prompt, throughout.

    Args:
        labels: [B, L] int, -100 where there is none; anything else tells nothing.
    """
    if not isinstance(labels, Tensor) or labels.dim() != 2 or labels.is_floating_point():
        return Context()
    count = (labels != -100).long().cumsum(1)
    whole = count[:, -1:]
    behind = torch.nn.functional.pad(count, (1, 0))[:, :-1]  # labels before each token
    return Context(mask=(behind < whole) | (whole == 0), prompt=behind == 0)


def read_stack(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], told: Context, *,
    writes: bool,
) -> Context:  # fmt: skip
    """Say what a call of one side of an encoder with a decoder tells of the tokens there.

    Of a decoder it says besides what is known of those that it reads.

    Args:
        module: the encoder or the decoder.
        args, kwargs: what it is called with.
        told: what the labels of the whole model's call tell of the decoder's tokens.
        writes: it is the decoder.
    """
    call, padding = arguments(module, args, kwargs), padding_id(module)
    if not writes:
        return read_call(call, causal=False, padding=padding)
    found, tokens = read_call(call, causal=True), _tokens(call)
    found.memory = _memory(call)
    if tokens is None or found.mask is None:
        return found
    known = told.mask is not None and told.mask.shape == found.mask.shape
    if _mask_given(call) is None:
        if known:
            found.mask = found.prompt = told.mask
        elif not found.offset:
            # many decoders begin to write with the token that pads
            start = getattr(getattr(module, "config", None), "decoder_start_token_id", None)
            found.unmasked = _ends(tokens[:, 1:] if start == padding else tokens, padding)
    if known and told.prompt is not None and found.mask is not None:
        found.prompt = found.mask & told.prompt
    return found


def _memory(call: Mapping[str, Any]) -> Context | None:
    states, mask = call.get("encoder_hidden_states"), call.get("encoder_attention_mask")
    if not isinstance(states, Tensor):
        return None
    if not isinstance(mask, Tensor) or mask.shape != states.shape[:2]:
        return Context()
    return Context(mask.bool(), mask.bool())


def tokens_in(cache: Any) -> int | Tensor | None:
    """Return how many tokens of each row a cache holds; of a static one it is a tensor.

    None where it holds some and does not tell how many, as states of a recurrence do.
    """
    length = getattr(cache, "get_seq_length", None)
    if length is None:
        return 0
    try:
        found: int | Tensor = length()
    except ValueError:
        return None if cache.has_previous_state() else 0
    return found


def padding_id(module: nn.Module | None) -> int | None:
    """Return the number of the token that pads the rows of a model, if it does nothing else."""
    config: Any = getattr(module, "config", None)
    found = getattr(config, "pad_token_id", None)
    for name in _REAL:
        real = getattr(config, name, None)
        if found in (real if isinstance(real, list | tuple) else (real,)):
            return None
    return found if isinstance(found, int) else None


def predicts_next(module: nn.Module) -> bool:
    """Tell whether the attention of a model says that it sees no later tokens."""
    found = (m.is_causal for m in module.modules() if isinstance(getattr(m, "is_causal", 0), bool))
    return bool(next(found, False))


def _tokens(call: Mapping[str, Any]) -> Tensor | None:
    for name in _TOKENS:
        value = call.get(name)
        if isinstance(value, Tensor) and value.dim() == 2 + value.is_floating_point():
            return value
    return None


def _mask_given(call: Mapping[str, Any]) -> Tensor | None:
    mask, hidden = call.get("attention_mask"), call.get("src_key_padding_mask")
    if isinstance(mask, Mapping):  # one mask for each kind of attention; all know the padding
        mask = next(iter(mask.values()))
    if mask is None and isinstance(hidden, Tensor):  # torch's own hides where it is True or -inf
        mask = hidden == 0
    return mask if isinstance(mask, Tensor) else None


def _real_tokens(mask: Tensor | None, tokens: Tensor, cached: int | Tensor | None) -> Tensor:
    """Return [B, L] bool, True at the real ones of the tokens of this call."""
    rows, length = tokens.shape[:2]
    if mask is not None and mask.dim() == 2:
        return mask[:, -length:].bool()
    if mask is not None and isinstance(cached, int) and cached == 0:
        # [B, 1, L, keys], as generation with a static cache makes it: a real token sees itself
        return _shown(mask.flatten(0, -3).diagonal(0, -2, -1)[:, :length]).expand(rows, length)
    return torch.ones(rows, length, dtype=torch.bool, device=tokens.device)


def _shown(mask: Tensor) -> Tensor:
    """Return where a mask of pairs shows a key: where it is True, or adds nothing."""
    return mask == 0 if mask.is_floating_point() else mask.bool()


def _sequences(call: Mapping[str, Any], given: Tensor | None, mask: Tensor) -> Tensor | None:
    """Return the number of the sequence of each token, [B, L]; None where nothing tells of any."""
    rows, length = mask.shape
    index = call.get("seq_idx")
    if isinstance(index, Tensor) and index.shape == mask.shape:
        return _numbered(index[:, 1:] != index[:, :-1])
    borders = next((v for n in _BORDERS if isinstance(v := call.get(n), Tensor)), None)
    if borders is not None and borders.dim() == 1:
        place = torch.arange(rows * length, device=borders.device)
        numbers = torch.searchsorted(borders[1:].contiguous(), place, right=True).view(rows, -1)
        return _numbered(numbers[:, 1:] != numbers[:, :-1])
    positions = call.get("position_ids")
    if isinstance(positions, Tensor) and positions.dim() == 3 and len(positions) == 4:
        positions = positions[0]  # the text's; the others are places in pictures
    if isinstance(positions, Tensor) and positions.dim() < 3 and positions.shape[-1] == length:
        return _numbered(_begins(positions.expand(rows, length), mask))
    if given is not None and given.dim() > 2:
        pairs = given.flatten(0, -3)[:, :length, :length]
        apart = ~_shown(pairs.diagonal(-1, -2, -1)).expand(rows, -1)
        return _numbered(apart & mask[:, 1:] & mask[:, :-1])
    return None


def _begins(positions: Tensor, mask: Tensor) -> Tensor:
    """Return where the positions of real tokens do not go on, [B, L - 1] bool."""
    place = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, place, -1).cummax(1).values[:, :-1]  # real token before each
    step = positions[:, 1:] - positions.gather(1, last.clamp_min(0))
    # padding in between may count as positions, or not
    goes_on = (step == 1) | (step == place[1:] - last)
    return mask[:, 1:] & (last >= 0) & ~goes_on


def _numbered(begins: Tensor) -> Tensor:
    return torch.nn.functional.pad(begins.long().cumsum(1), (1, 0))


def _before_answer(mask: Tensor, labels: Any, sequences: Tensor | None) -> Tensor:
    if not isinstance(labels, Tensor) or labels.shape != mask.shape:
        return mask
    labelled = (labels != -100).long()
    if sequences is None:
        before = mask & (labelled.cumsum(1) == 0)
        return torch.where(before.any(1, keepdim=True), before, mask)
    before = mask & (counted(labelled, sequences) == 0)
    some = torch.zeros_like(labelled).scatter_add(1, sequences, before.long()).gather(1, sequences)
    return torch.where(some > 0, before, mask)


def counted(values: Tensor, sequences: Tensor) -> Tensor:
    """Return the sum of values, [B, L], over the tokens of a sequence up to each one of them."""
    whole = torch.zeros_like(values).scatter_add(1, sequences, values)
    earlier = whole.cumsum(1) - whole  # of the sequences before
    return values.cumsum(1) - earlier.gather(1, sequences)


def _ends(tokens: Tensor, padding: int | None) -> Tensor | None:
    """Return whether a row begins or ends with the token that pads, [] bool."""
    if padding is None or tokens.is_floating_point() or tokens.shape[1] < 2:
        return None
    # a list as an index would be copied to the device in every call
    return ((tokens[:, 0] == padding) | (tokens[:, -1] == padding)).any()
