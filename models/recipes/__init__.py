"""Training recipes of the papers: reference networks, their data, and how they are trained. Needs torch.

    >>> from onnxdam.recipes import find
    >>> from onnxdam.recipes.training import train
    >>> recipe = find("lenet-300-100")  # doctest: +SKIP
    >>> trained = train(recipe, recipe.load(None))  # doctest: +SKIP

Lives in models/recipes/ at the top level and installs as onnxdam.recipes. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from onnxdam.errors import InputError

if TYPE_CHECKING:
    from .recipe import Recipe

MODULES = {  # name of the recipe: the file that has it
    "digits": "digits",
    "lenet-300-100": "lenet",
    "linear-dr": "reduction",
    "kernel-dr": "reduction",
    "quadratic-dr": "reduction",
    "autoencoder": "autoencoder",
    "lenet-5": "convnets",
    "preresnet-20": "convnets",
    "preresnet-56": "convnets",
    "preresnet-164": "convnets",
    "vgg-16": "convnets",
    "vgg-19": "convnets",
    "resnet-18": "convnets",
    "gcn": "graph",
    "recommender": "recommender",
}


def find(name: str) -> Recipe[Any]:
    """A recipe by its name.

    Raises:
        InputError: no such recipe, or no torch.
    """
    if name not in MODULES:
        close = difflib.get_close_matches(name.lower(), MODULES)
        meant = f" (do you mean {' or '.join(close)}?)" if close else ""
        raise InputError(f"no recipe is called {name!r}{meant}; there are {', '.join(MODULES)}")
    if importlib.util.find_spec("torch") is None:
        raise InputError("training needs torch, which is not installed: pip install 'onnxdam[torch]'")
    module = importlib.import_module(f"{__package__}.{MODULES[name]}")
    return next(recipe for recipe in module.RECIPES if recipe.name == name)
