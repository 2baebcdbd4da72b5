"""Widths that modules keep in attributes of their own: num_heads, all_head_size, split_size ...

No table of classes: an attribute may follow a parameter if its number says something about an axis that has become
narrow, and which do follow is found by trying, until the slim network runs. Whether it is right is for the caller to
check: it has to give what the network gave.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

TRIES = 200  # runs of the network


@dataclass(frozen=True)
class Change:
    """An attribute of all modules of a class follows one of their parameters.

    Attributes:
        kind: the class.
        attribute: its name.
        parameter: the parameter's name, as the module sees it, and the axis.
        meaning: what the number is: the "extent" of the axis, a "multiple" of it, the "count" of its blocks, or the
            size of a "block".
    """

    kind: type
    attribute: str
    parameter: tuple[str, int]
    meaning: str


Sizes = Mapping[str, Mapping[int, tuple[int, tuple[int, ...]]]]  # parameter -> axis -> extent before, entries that stay
Changes = dict[Change, list[tuple[nn.Module, int]]]  # the numbers that it would set


def follow(model: nn.Module, sizes: Sizes, run: Callable[[], object]) -> Exception | None:
    """Changes attributes until the network runs.

    Args:
        model: with narrow parameters; its attributes are changed in place.
        sizes: of the axes that have become narrow.
        run: calls it.

    Returns:
        None, or what it fails with (then its attributes are as they were).
    """
    changes = _changes(model, sizes)
    done, where, error = _advance(model, run)
    undo: list[tuple[nn.Module, str, int]] = []
    tries = 0
    while error is not None:
        best: tuple[int, Change] | None = None
        for change in [c for kind in _around(model, where) for c in changes if c.kind is kind]:
            back = _apply(change, changes)
            reached, _, failed = _advance(model, run)
            _restore(back)
            tries += 1
            if reached > done or failed is None:
                best = (reached, change)
                break
        if best is None or tries > TRIES:
            _restore(undo)
            return error
        undo += _apply(best[1], changes)
        done, where, error = _advance(model, run)
    return None


def _changes(model: nn.Module, sizes: Sizes) -> Changes:
    found: Changes = defaultdict(list)
    for path, module in model.named_modules():
        numbers = {k: v for k, v in vars(module).items() if type(v) is int and v > 0 and not k.startswith("_")}
        prefix = f"{path}." if path else ""
        for name, axes in sizes.items() if numbers else ():
            if name.startswith(prefix) and name.count(".") - path.count(".") <= 3:
                for axis, (extent, kept) in axes.items():
                    for attribute, number in numbers.items():
                        for meaning, new in _meanings(number, extent, kept):
                            change = Change(type(module), attribute, (name[len(prefix) :], axis), meaning)
                            found[change].append((module, new))
    return found


def _meanings(number: int, extent: int, kept: Sequence[int]) -> Iterator[tuple[str, int]]:
    if number % extent == 0:
        yield ("extent" if number == extent else "multiple"), number // extent * len(kept)
    elif number > 1 and extent % number == 0:
        size = extent // number
        blocks = {i // size for i in kept}
        if len(kept) == len(blocks) * size:
            yield "count", len(blocks)
        places = {i % number for i in kept}
        if len(kept) == len(places) * size:
            yield "block", len(places)


def _around(model: nn.Module, path: str) -> list[type]:
    """Classes of a module and of those that hold it, from the inside out."""
    parts = path.split(".") if path else []
    return list(dict.fromkeys(type(model.get_submodule(".".join(parts[:n]))) for n in range(len(parts), -1, -1)))


def _apply(change: Change, changes: Changes) -> list[tuple[nn.Module, str, int]]:
    before = []
    for module, number in changes[change]:
        before.append((module, change.attribute, vars(module)[change.attribute]))
        setattr(module, change.attribute, number)
    return before


def _restore(before: Sequence[tuple[nn.Module, str, int]]) -> None:
    for module, attribute, number in reversed(before):
        setattr(module, attribute, number)


def _advance(model: nn.Module, run: Callable[[], object]) -> tuple[int, str, Exception | None]:
    """How many modules the network gets through, in which it fails, and with what."""
    inside: list[str] = []
    done = 0

    def leave(*_: object) -> None:
        nonlocal done
        done += 1
        inside.pop()

    hooks = []
    for path, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda _, __, path=path: inside.append(path)))
        hooks.append(module.register_forward_hook(leave))
    try:
        run()
    except Exception as error:  # whatever a forward function raises
        return done, inside[-1] if inside else "", error
    finally:
        for hook in hooks:
            hook.remove()
    return done, "", None
