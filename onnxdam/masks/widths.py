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
GUESSES = 6  # ways to make it run


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
Changes = Mapping[Change, list[tuple[nn.Module, int]]]  # the numbers that it would set


def follow(model: nn.Module, sizes: Sizes, run: Callable[[], object], good: Callable[[], bool]) -> Exception | None:
    """Changes attributes until the network runs, and runs well.

    Args:
        model: with narrow parameters; its attributes are changed in place.
        sizes: of the axes that have become narrow.
        run: calls it.
        good: whether it gives what it should.

    Returns:
        None where it runs (the last time, maybe not well), or what it fails with.
    """
    changes = _changes(model, sizes)
    wrong: set[Change] = set()
    error: Exception | None = None
    for _ in range(GUESSES):
        chosen, error = _search(model, {c: to for c, to in changes.items() if c not in wrong}, run)
        if error is None and good():
            return None
        if not chosen:
            return None if error is None and _guess(model, changes, run, good) else error
        _restore([one for back in chosen.values() for one in back])
        wrong.add(next(iter(chosen)))
    return _search(model, {}, run)[1]


def _runs_well(run: Callable[[], object], good: Callable[[], bool]) -> bool:
    try:
        run()
        return good()
    except Exception:  # whatever a forward function raises
        return False


def _guess(model: nn.Module, changes: Changes, run: Callable[[], object], good: Callable[[], bool]) -> bool:
    """Where it runs as it is, and gives something else: one change may be all that lacks."""
    for change in list(changes)[:TRIES]:
        back = _apply(change, changes)
        if _runs_well(run, good):
            return True
        _restore(back)
    return False


def _search(
    model: nn.Module, changes: Changes, run: Callable[[], object]
) -> tuple[dict[Change, list[tuple[nn.Module, str, int]]], Exception | None]:
    """One change after the other, each of which gets the network further; what they undo, and what it fails with."""
    chosen: dict[Change, list[tuple[nn.Module, str, int]]] = {}
    done, where, error = _advance(model, run)
    tries = 0
    while error is not None:
        for change in [c for kind in _around(model, where) for c in changes if c.kind is kind and c not in chosen]:
            back = _apply(change, changes)
            reached, place, failed = _advance(model, run)
            tries += 1
            if reached > done or failed is None:
                chosen[change] = back
                done, where, error = reached, place, failed
                break
            _restore(back)
        else:
            return chosen, error
        if tries > TRIES:
            return chosen, error
    return chosen, None


def _changes(model: nn.Module, sizes: Sizes) -> Changes:
    found: dict[Change, list[tuple[nn.Module, int]]] = defaultdict(list)
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
    few = sorted(found.items(), key=lambda item: vars(item[1][0][0])[item[0].attribute])  # few large blocks first
    return dict(few)


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
