"""`/v1/weights`: other weights of the model that is served, for a trainer that draws its rollouts here.

Off unless the server is told from which folder it may load (`ServeConfig.weights_folder`).
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
    from polythink.models.lm import LanguageModel
    from polythink.serve.service import Service


class WeightsRequest(Body):
    """Which weights, and what they are called."""

    folder: str = Field(min_length=1, max_length=4096)
    """A model folder below the server's `weights_folder`, by its whole path or that from there."""
    version: str = Field("", max_length=200)
    """What responses say as `weight_version` from then on."""


def router(service: Service) -> APIRouter:
    routes, one_at_a_time = APIRouter(), asyncio.Lock()

    @routes.post("/v1/weights")
    async def weights(body: Annotated[WeightsRequest, Depends(parsed(WeightsRequest))]) -> dict[str, Any]:
        folder = find_folder(body.folder, service.config.weights_folder)
        async with one_at_a_time:
            new = await asyncio.to_thread(read_weights, folder, service.lm)
            await service.change(lambda: put_weights(service.lm, new), body.version)
        return {"success": True, "weight_version": body.version}

    return routes


def find_folder(given: str, below: str | None) -> str:
    """The folder meant, links followed; 403 where it is not below the one that the server may load from."""
    if below is None:
        raise ApiError(403, "this server loads no other weights; start it with --weights-folder to allow that")
    try:
        root = Path(below).expanduser().resolve()
        folder = (root / given).resolve()
    except (OSError, ValueError, RuntimeError):  # a name that no file can have, links in a circle
        raise ApiError(400, "folder is no path of a folder", "folder") from None
    if not folder.is_relative_to(root) or not folder.is_dir():
        raise ApiError(403, "folder is none below the server's --weights-folder", "folder")
    return str(folder)


def read_weights(folder: str, lm: LanguageModel) -> dict[str, Any]:
    """The tensors in a model folder, by name; `UserError` where they are not those of the same model, trained on."""
    from polythink.models.lm import load

    new = load(folder, device="cpu", mode=lm.settings.mode, add_tags=False)
    own, given = lm.model.state_dict(), new.model.state_dict()
    if new.tokenizer.get_vocab() != lm.tokenizer.get_vocab():
        raise UserError(f"the tokenizer in {folder} is another one than that of the model that is served")
    differs = [name for name in own.keys() | given.keys() if name not in own or name not in given]
    differs += [name for name in own.keys() & given.keys() if own[name].shape != given[name].shape]
    if differs:
        raise UserError(f"the model in {folder} is another one: {len(differs)} tensors differ, such as {min(differs)}")
    return given


def put_weights(lm: LanguageModel, new: dict[str, Any]) -> None:
    """Copy tensors into the model, in place: whoever holds its parameters sees the new values."""
    import torch

    with torch.no_grad():
        for name, tensor in lm.model.state_dict().items():
            tensor.copy_(new[name])
