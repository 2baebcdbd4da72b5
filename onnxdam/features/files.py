"""Where manifests are found, and whether they are the right ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from onnxdam.errors import InputError
from onnxdam.features.manifest import METADATA_KEY, Manifest

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxdam.graph.io import AnyModel


def manifest_path(model: str | os.PathLike[str]) -> Path:
    """Where the manifest of a model file lies: slim.onnx -> slim.features.json."""
    path = Path(model)
    return path.with_name(path.stem + ".features.json")


def load(source: AnyModel) -> Manifest:
    """The manifest in a file or a model.

    Args:
        source: NAME.features.json; or a pruned model (a path or an object), whose metadata holds it. A model file
            without may have its manifest beside it; one beside a model that holds its own must be the same.

    Raises:
        InputError: there is none, it is damaged, or it is not the one of this model.
    """
    if isinstance(source, str | os.PathLike) and Path(source).suffix.lower() == ".json":
        return Manifest.from_json(_text(Path(source)), str(source))
    from onnxdam.graph import io

    model = io.load(source)
    where = str(source) if isinstance(source, str | os.PathLike) else "model"
    inside, beside = _in_metadata(model, where), _beside(source)
    found = inside or beside
    if found is None:
        raise InputError(f"{where}: holds no manifest; `onnxdam prune --inputs` writes models that do")
    if inside is not None:
        check_belongs(inside, model, where)
    if beside is not None and not (beside.to_json() == inside.to_json() if inside else belongs(beside, model)):
        raise InputError(
            f"{manifest_path(where)}: belongs to another model than the one beside it; remove or replace it"
        )
    return found


def of_model(model: ir.Model) -> Manifest | None:
    """The manifest in the metadata of a model that was read already, None where there is none.

    Raises:
        InputError: it is damaged, or the model was changed since.
    """
    found = _in_metadata(model, "model")
    if found is not None:
        check_belongs(found, model)
    return found


def belongs(manifest: Manifest, model: AnyModel) -> bool:
    """Whether the manifest was made for exactly this model: its graph and every byte of its weights."""
    from onnxdam.graph import io

    return io.fingerprint(io.load(model)) == manifest.model


def check_belongs(manifest: Manifest, model: AnyModel, where: str = "model") -> None:
    """`belongs`, for those who cannot go on without.

    Raises:
        InputError: the manifest is that of another model.
    """
    if not belongs(manifest, model):
        raise InputError(f"{where}: the manifest belongs to another model; prune again, or take the files of one run")


def _in_metadata(model: ir.Model, where: str) -> Manifest | None:
    text = model.metadata_props.get(METADATA_KEY)
    return None if text is None else Manifest.from_json(text, f"{where}: metadata {METADATA_KEY!r}")


def _beside(source: object) -> Manifest | None:
    path = manifest_path(source) if isinstance(source, str | os.PathLike) else None
    return Manifest.from_json(_text(path), str(path)) if path is not None and path.exists() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not a manifest (not text)") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
