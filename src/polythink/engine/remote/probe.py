"""What a server can do, found by asking it: a few completions of one or two tokens.

What can be measured is not believed. Are token ids taken and given? Are there log-probabilities, and of which
distribution? A trainer needs those of the full softmax at the temperature of sampling (at 1 under greedy decoding),
before top-p and top-k: `Segment.logprobs`. vLLM returns raw ones, at temperature 1, unless it runs with
`--logprobs-mode processed_logprobs`; then they are cut by top-p and top-k as well. So the same prompt is asked at two
temperatures and with top_k 1, and the distance between the two likeliest tokens says which it is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from polythink.engine.params import SamplingParams
from polythink.engine.remote.completions import Answer, Completions
from polythink.engine.remote.servers import OTHER, SERVERS, Server
from polythink.errors import UserError, did_you_mean
from polythink.run.http import Connection
from polythink.run.retry import CallError

NEAR = 1e-3  # of log-probabilities that are the same but for rounding (bfloat16 logits are equal or apart by more)
LOGPROBS = (
    "its log-probabilities would not be those of the distribution that is sampled, and cannot be trained on; "
    "for evaluation set logprobs: none"
)
NO_LIST = (404, 405, 501)  # of a server that lists no models


@dataclass(frozen=True)
class Served:
    """A model on a server: what /v1/models says of it."""

    server: Server
    model: str
    context: int | None


@dataclass(frozen=True)
class Abilities:
    """What was measured. None: it could not be."""

    stops: bool  # a completion ends at a stop token, and the token is among those that are returned
    at_temperature: bool | None = None  # log-probabilities are at the temperature of sampling, not at 1
    cut: bool | None = None  # they are of what top-p and top-k have left
    greedy_at_one: bool | None = None  # under greedy decoding they are at temperature 1

    def refusal(self, params: SamplingParams) -> str | None:
        """Why the log-probabilities under these parameters are not those to record; None where they are."""
        cuts = params.top_p < 1 or params.top_k > 0
        if cuts and self.cut is not False:
            return f"top_p={params.top_p:g} and top_k={params.top_k}: {LOGPROBS}"
        for kind in ("main", "path", "summary"):
            temperature = params.temperature_of(kind)
            if temperature == 0 and not self.greedy_at_one:
                return f"temperature 0 ({kind}): {LOGPROBS}"
            if temperature not in (0, 1) and not self.at_temperature:
                return f"temperature {temperature:g} ({kind}): it returns those at temperature 1, so {LOGPROBS}"
        return None


def find_model(connection: Connection, wanted: str | None) -> Served:
    """The model that is meant and the kind of its server; `UserError` for one that is not there."""
    try:
        response = connection.send("GET", connection.at("/models"))
        if response.status_code not in (200, *NO_LIST):  # taken for a server of another kind, it would be asked wrongly
            connection.refused(response.status_code, response.text, response.headers)
    except CallError as error:
        raise UserError(f"the server cannot be asked: {error}") from None
    try:
        listed = [card for card in response.json()["data"] if isinstance(card["id"], str)]
    except (ValueError, LookupError, TypeError):
        listed = []
    if not listed:
        if wanted is None:
            raise UserError(f"{connection.where} does not say which models it has; name one (model)")
        return Served(OTHER, wanted, None)
    names = [card["id"] for card in listed]
    if wanted is None and len(names) > 1:
        raise UserError(f"{connection.where} has the models {', '.join(names)}; name one of them (model)")
    if wanted is not None and wanted not in names:
        raise UserError(f"{connection.where} has no model {wanted!r}{did_you_mean(wanted, names)}")
    card = listed[names.index(wanted)] if wanted else listed[0]
    context = card.get("max_model_len") or (card.get("meta") or {}).get("n_ctx")
    return Served(SERVERS.get(str(card.get("owned_by")), OTHER), card["id"], context)


def measure(completions: Completions, tokens: Sequence[int], ends: Collection[int]) -> Abilities:
    """Ask for completions of one of these tokens. `UserError` that says what the server lacks."""
    try:
        for token in tokens:
            prompt, first = [token], completions.ask([token], 2, temperature=0.0, top=2)
            _check_lacks(completions, first)
            if (stop := first.tokens[0]) not in ends:  # where any server stops
                break
        stopped = completions.ask(prompt, 2, temperature=0.0, top=2, stop_token_ids=[stop])
        stops = stopped.tokens == [stop] and stopped.finish == "stop"
        if not completions.logprobs:
            return Abilities(stops)
        if completions.server.names_streams:  # ours: the engine's own, before top-p and top-k
            return Abilities(stops, at_temperature=True, cut=False, greedy_at_one=True)
        return _logprobs(completions, prompt, first, stops)
    except CallError as error:
        raise UserError(
            f"{completions.connection.where} does not complete token ids ({error}); rollouts need a server that takes "
            "token ids as the prompt, such as vLLM, SGLang, llama.cpp's llama-server or polythink serve"
        ) from None


def _check_lacks(completions: Completions, first: Answer) -> None:
    where = completions.connection.where
    if not first.tokens:
        raise UserError(
            f"{where} returns no token ids, and they cannot be told from its text, which can be split into tokens in "
            "several ways; use a server that returns them: vLLM from 0.10.2, SGLang from 0.5.9 (return_token_ids), "
            "llama.cpp's llama-server, polythink serve"
        )
    if completions.logprobs and (first.logprobs is None or len(first.logprobs) != len(first.tokens)):
        raise UserError(
            f"{where} returns no log-probability for each token, and a trainer needs them; use another server, or for "
            "evaluation set logprobs: none"
        )


def _logprobs(completions: Completions, prompt: Sequence[int], greedy: Answer, stops: bool) -> Abilities:
    """Of which distribution the log-probabilities are."""
    warm = completions.ask(prompt, 1, temperature=1.0, top=2).top
    hot = completions.ask(prompt, 1, temperature=0.5, top=2).top
    one = completions.ask(prompt, 1, temperature=1.0, top_k=1, top=2).top
    if not warm or not hot or not one or len(warm) < 2:
        return Abilities(stops)
    apart = warm[0] - warm[1]
    at_temperature = None
    if apart > 10 * NEAR and len(hot) > 1:
        twice = (hot[0] - hot[1]) / apart
        at_temperature = True if abs(twice - 2) < 0.1 else False if abs(twice - 1) < 0.1 else None
    cut = abs(one[0] - warm[0]) > NEAR if warm[0] < -NEAR else None
    greedy_at_one = abs(greedy.top[0] - warm[0]) < NEAR if greedy.top else None
    return Abilities(stops, at_temperature, cut, greedy_at_one)
