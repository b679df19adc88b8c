"""DeepSpeed's partitioned training state as named slices of whole parameters.

A checkpoint written in these terms does not know world size or ZeRO stage: any other partitioning reads the slices
that overlap its own. DeepSpeed's own checkpoint files are pickles and do not reload at another world size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

MOMENTS = ("exp_avg", "exp_avg_sq")  # Adam's first and second moment
KINDS = ("master", *MOMENTS)


@dataclass(frozen=True)
class Fragment:
    """The slice [start, start + numel) of a flattened parameter that this rank holds.

    `tensors` maps each of `KINDS` to a flat float32 view of the live state, so that copying into it restores it.
    `owned` is False where another rank saves the same slice.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    numel: int
    tensors: dict[str, torch.Tensor]
    owned: bool


def fragments(engine: Any, rank: int, world_size: int) -> list[Fragment]:
    """Every slice of a trainable parameter that this rank holds, in the order of the module's parameters."""
    optimizer = engine.optimizer
    named = [(name, parameter) for name, parameter in engine.module.named_parameters() if parameter.requires_grad]
    if engine.zero_optimization_stage() == 3:
        return list(_stage_3(optimizer, named, rank))
    if any(hasattr(parameter, "_hp_mapping") for _, parameter in named):
        return list(_flat_partitions(optimizer, named))
    return list(_whole(optimizer, named, rank, world_size))


def refresh_model(engine: Any) -> None:
    """Make the model's weights follow the float32 master weights after these were written; collective."""
    optimizer = engine.optimizer
    if engine.zero_optimization_stage() == 3:
        optimizer.checkpoint_event_prologue()  # forgets what forward passes left gathered, else that would live on
        for group in range(len(optimizer.fp16_groups)):
            optimizer._reassign_or_swap_out_partitioned_parameters(group)
        optimizer.checkpoint_event_epilogue()
    elif hasattr(optimizer, "update_lp_params"):
        optimizer.update_lp_params()
    elif hasattr(optimizer, "fp32_groups"):
        for low, high in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
            for weight, master in zip(low, high, strict=True):
                weight.data.copy_(master.data)


def undo_trial_step(engine: Any) -> None:
    """Put a new engine's optimizer back to before its first step.

    DeepSpeed's wrapper for stage 0 in bfloat16 makes one step on zero gradients to have the moments allocated: it
    decays the weights once at the peak rate, and Adam's bias correction counts from 1.
    """
    optimizer = engine.optimizer
    if engine.zero_optimization_stage() == 0 and hasattr(optimizer, "fp32_groups"):
        optimizer.optimizer.state.clear()
        for low, high in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
            for weight, master in zip(low, high, strict=True):
                master.data.copy_(weight.data)


def optimizer_step_count(engine: Any) -> int:
    """Updates applied so far, as Adam's bias correction counts them."""
    states = list(_inner(engine.optimizer).state.values())
    return int(states[0]["step"]) if states and "step" in states[0] else 0


def set_optimizer_step_count(engine: Any, steps: int) -> None:
    """Restore Adam's count on every parameter it holds; states that do not exist yet are created as Adam would."""
    inner = _inner(engine.optimizer)
    for master in _masters(engine.optimizer):
        state = _ensure_state(inner, master)
        state["step"] = steps if isinstance(state["step"], int) else torch.full_like(state["step"], float(steps))


def _inner(optimizer: Any) -> Any:
    """The torch optimizer inside DeepSpeed's wrapper, or the optimizer itself when there is none."""
    return getattr(optimizer, "optimizer", optimizer)


def _masters(optimizer: Any) -> Iterator[torch.Tensor]:
    for attribute in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
        if hasattr(optimizer, attribute):
            yield from getattr(optimizer, attribute)
            return
    for group in _inner(optimizer).param_groups:
        yield from group["params"]


def _ensure_state(inner: Any, master: torch.Tensor) -> dict[str, Any]:
    """Adam creates its state in the first step; a restore comes before that."""
    state: dict[str, Any] = inner.state[master]
    if not state:
        fused = isinstance(inner, torch.optim.Optimizer) and bool(inner.defaults.get("fused"))
        state["step"] = torch.zeros((), dtype=torch.float32, device=master.device) if fused else 0
        state |= {moment: torch.zeros_like(master.data) for moment in MOMENTS}
    return state


def _views(inner: Any, master: torch.Tensor, offset: int, numel: int) -> dict[str, torch.Tensor]:
    state = _ensure_state(inner, master)
    whole = {"master": master.data, **{moment: state[moment] for moment in MOMENTS}}
    return {kind: tensor.view(-1).narrow(0, offset, numel) for kind, tensor in whole.items()}


def _stage_3(optimizer: Any, named: list[tuple[str, Any]], rank: int) -> Iterator[Fragment]:
    for name, parameter in named:
        part = parameter.ds_tensor.ds_numel
        start = rank * part
        numel = min(part, parameter.ds_numel - start)  # the last ranks hold padding
        if numel <= 0:
            continue
        group, offset, _ = optimizer.grad_position[optimizer.get_param_id(parameter)]
        master = optimizer.fp32_partitioned_groups_flat[group]
        views = _views(optimizer.optimizer, master, offset, numel)
        yield Fragment(name, tuple(parameter.ds_shape), start, numel, views, owned=True)


def _flat_partitions(optimizer: Any, named: list[tuple[str, Any]]) -> Iterator[Fragment]:
    masters = list(_masters(optimizer))
    for name, parameter in named:
        mapping = getattr(parameter, "_hp_mapping", None)
        if mapping is None:
            continue  # this rank's partition holds nothing of it
        high, low = mapping.hp_fragment_address, mapping.lp_fragment_address
        views = _views(optimizer.optimizer, masters[mapping.param_group_index], high.start, high.numel)
        yield Fragment(name, tuple(parameter.shape), low.start, low.numel, views, owned=True)


def _whole(optimizer: Any, named: list[tuple[str, Any]], rank: int, world_size: int) -> Iterator[Fragment]:
    """Stage 0: every rank holds everything; the ranks take turns in saving it."""
    master_of = _master_lookup(optimizer)
    for number, (name, parameter) in enumerate(named):
        master = master_of(parameter)
        views = _views(_inner(optimizer), master, 0, parameter.numel())
        yield Fragment(name, tuple(parameter.shape), 0, parameter.numel(), views, owned=number % world_size == rank)


def _master_lookup(optimizer: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    if not hasattr(optimizer, "fp32_groups"):
        return lambda parameter: parameter
    pairs = zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
    masters = {id(low): high for lows, highs in pairs for low, high in zip(lows, highs, strict=True)}
    return lambda parameter: masters[id(parameter)]
