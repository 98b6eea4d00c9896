"""`/v1/weights`: new weights for the model that is served, from a folder on the server's own disk.

For whoever trains the model elsewhere. It is there only with `weights_root`, and takes folders inside that alone. The
new weights are read while the server goes on; then what runs is finished, what waits keeps waiting, the weights are
copied into the model, and the version that every completion names goes up. A folder of another shape, tokenizer or
dialect changes nothing.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import Field

from polythink.errors import UserError
from polythink.serve.body import Body, parsed
from polythink.serve.errors import ApiError

if TYPE_CHECKING:
    import torch

    from polythink.models.lm import LanguageModel
    from polythink.serve.service import Service


class WeightsRequest(Body):
    """Which weights to take."""

    folder: str = Field(min_length=1, max_length=4096)
    """A model folder inside the server's `weights_root`: an absolute path, or one below it."""
    version: str | None = Field(None, min_length=1, max_length=100)
    """What the new weights are called; one more than before if left out."""


def router(service: Service) -> APIRouter:
    routes, turn = APIRouter(), asyncio.Lock()

    @routes.get("/v1/weights")
    async def which() -> dict[str, Any]:
        return {"weight_version": service.weight_version}

    @routes.post("/v1/weights")
    async def take(body: Annotated[WeightsRequest, Depends(parsed(WeightsRequest))]) -> dict[str, Any]:
        folder = allowed(body.folder, service.config.weights_root)
        async with turn:
            tensors = await asyncio.to_thread(read, service.lm, folder)
            version = body.version or following(service.weight_version)
            await service.alone(lambda: swap(service, tensors, version))
        return {"weight_version": version}

    return routes


def following(version: str) -> str:
    """The version after this one."""
    return str(int(version) + 1) if version.isascii() and version.isdigit() else f"{version}+1"


def allowed(given: str, root: str | None) -> Path:
    """The folder that is meant; `ApiError` where it does not lie in `root`, whatever links lead to it."""
    if root is None:
        raise ApiError(404, "this server takes no new weights; start it with --weights-root FOLDER", "folder")
    if "\0" in given:
        raise ApiError(400, "folder holds a character that no path has", "folder")
    base = Path(root).expanduser().resolve()
    folder = (base / given).resolve()
    if folder != base and base not in folder.parents:
        raise ApiError(403, "folder lies outside of the weights_root of this server; give one inside it", "folder")
    if not (folder / "config.json").is_file():
        raise ApiError(400, "folder holds no model: it has no config.json", "folder")
    if not any(folder.glob("*.safetensors")):
        raise ApiError(400, "folder holds no weights as safetensors, and this server reads no others", "folder")
    return folder


def read(lm: LanguageModel, folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a model folder, in the order and types of `lm`'s; `UserError` where they do not fit it."""
    from polythink.models.lm import load

    ours = lm.model.state_dict()
    dtype = str(next(lm.model.parameters()).dtype).removeprefix("torch.")
    theirs = load(folder, device="cpu", dtype=dtype)
    wrong = [name for name, same in {
        "tokenizer": theirs.tokenizer.get_vocab() == lm.tokenizer.get_vocab(),
        "dialect": theirs.dialect == lm.dialect,
        "architecture": theirs.model.config.model_type == lm.model.config.model_type,
        "number of thought embeddings": theirs.settings.thoughts == lm.settings.thoughts,
    }.items() if not same]  # fmt: skip
    if wrong:
        raise UserError(f"the folder's model has another {wrong[0]} than the one that is served; start a server of it")
    found = theirs.model.state_dict()
    if odd := sorted(ours.keys() ^ found.keys()) or [n for n, x in ours.items() if x.shape != found[n].shape]:
        raise UserError(f"the folder's model has another shape than the one that is served: {odd[0]} differs")
    return found


def swap(service: Service, tensors: dict[str, torch.Tensor], version: str) -> None:
    """Copy the tensors into the model that is served. No trace is live."""
    import torch

    with torch.no_grad():
        for name, tensor in service.lm.model.state_dict().items():
            tensor.copy_(tensors[name])
    service.weight_version = version
