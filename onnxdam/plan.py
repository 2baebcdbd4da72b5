"""The plan: what stays, and why, as an immutable value.

`plan` decides, `apply` executes, `inspect`, `explain`, the report and the dry run read. Nothing is decided twice.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from onnxdam.errors import InputError
from onnxdam.features.manifest import Manifest

SCHEMA = 1


@dataclass(frozen=True)
class Refusal:
    """A masked slot that stays, with the reason.

    Attributes:
        value: name of the tensor.
        axis: axis of the tensor.
        indices: the slots of that axis that could have left.
        reason: what keeps them, naming the node and the rule.
    """

    value: str
    axis: int
    indices: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Absorbed:
    """Constant slots that left, their contribution folded into the node that read them.

    Attributes:
        node: name of the consumer.
        value: the tensor it read.
        axis: the contracted axis.
        constants: the constant of each removed slot, by index (zeros are not listed).
        into: "bias", or "carrier N": the constant slot that now carries the others.
    """

    node: str
    value: str
    axis: int
    constants: Mapping[int, float]
    into: str


@dataclass(frozen=True)
class Plan:
    """Which slots of which axes stay. Immutable; `to_json` and `from_json` are inverse.

    Attributes:
        fingerprint: hash of the model that the plan belongs to.
        options: the options it was made with.
        kept: value name -> axis -> kept indices, ascending; axes that keep everything are not listed.
        constant: values that are replaced by their (constant) content.
        absorbed: constants folded into consumers.
        aligned: value name -> axis -> slots that are dead but stay, to reach a width that runs fast.
        refusals: masked slots that stay, with reasons.
        notes: what the user should know (lossy thresholds, inputs nobody reads ...).
        signature: what becomes of inputs and outputs, where they were allowed to shrink. None: they stay.
    """

    fingerprint: str
    options: Mapping[str, Any] = field(default_factory=dict)
    kept: Mapping[str, Mapping[int, tuple[int, ...]]] = field(default_factory=dict)
    constant: tuple[str, ...] = ()
    absorbed: tuple[Absorbed, ...] = ()
    aligned: Mapping[str, Mapping[int, tuple[int, ...]]] = field(default_factory=dict)
    refusals: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()
    signature: Manifest | None = None

    def to_json(self) -> str:
        """The plan as JSON text, stable byte for byte."""
        data = {"schema": SCHEMA} | dataclasses.asdict(replace(self, signature=None))
        del data["signature"]
        if self.signature is not None:
            data["signature"] = json.loads(self.signature.to_json())
        return json.dumps(data, indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Reads what `to_json` wrote.

        Raises:
            InputError: the text is not JSON, or not a plan of this schema.
        """
        try:
            data = json.loads(text)
            if data.pop("schema") != SCHEMA:
                raise InputError("plan: schema is not 1; make the plan again with this version of onnxdam")
            return cls(
                fingerprint=str(data["fingerprint"]),
                options=dict(data["options"]),
                kept=_axes(data["kept"]),
                constant=tuple(data["constant"]),
                absorbed=tuple(
                    Absorbed(**(a | {"constants": {int(i): float(c) for i, c in a["constants"].items()}}))
                    for a in data["absorbed"]
                ),
                aligned=_axes(data["aligned"]),
                refusals=tuple(Refusal(**(r | {"indices": tuple(r["indices"])})) for r in data["refusals"]),
                notes=tuple(data["notes"]),
                signature=_signature(data.get("signature")),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"plan: not a plan of onnxdam ({type(error).__name__}: {error})") from None


def _signature(data: Any) -> Manifest | None:
    return None if data is None else Manifest.from_json(json.dumps(data), "plan: signature")


def _axes(data: Mapping[str, Mapping[str, list[int]]]) -> dict[str, dict[int, tuple[int, ...]]]:
    return {value: {int(axis): tuple(map(int, kept)) for axis, kept in axes.items()} for value, axes in data.items()}
