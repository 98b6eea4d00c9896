"""What is served and how it fares: `/v1/models`, `/health`, `/version`, `/metrics`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from polythink.serve.fields import check_model, now

if TYPE_CHECKING:
    from polythink.serve.service import Service

# counters of the service -> the metric's name (vLLM's, where it means the same) and what it is; others are gauges
METRICS = {
    "running": ("num_requests_running", "gauge", "Traces that are being generated."),
    "waiting": ("num_requests_waiting", "gauge", "Traces that wait for a row or for memory."),
    "requests": ("num_http_generations", "gauge", "Requests that wait or run, each of one or several traces."),
    "prompt_tokens": ("prompt_tokens", "counter", "Prompt tokens of the traces taken."),
    "tokens": ("generation_tokens", "counter", "Tokens of the traces done, forced ones included."),
    "forwarded": ("forwarded_tokens", "counter", "Tokens run through the model."),
    "steps": ("steps", "counter", "Steps of the engine."),
    "preempted": ("num_preemptions", "counter", "How often a trace made room for older ones."),
    "finished": ("request_success", "counter", "Traces that were finished."),
    "aborted": ("request_aborted", "counter", "Traces that were given up: their client left, or their time ran out."),
    "failed": ("request_failed", "counter", "Traces that a fault of the model ended."),
    "kv_bytes": ("kv_cache_bytes", "gauge", "Bytes of keys and values in use."),
}


def router(service: Service, answers: Counter[tuple[str, str, int]]) -> APIRouter:
    routes, started = APIRouter(), now()
    metrics = CollectorRegistry(auto_describe=False)
    metrics.register(Collector(service, answers))

    def card() -> dict[str, Any]:
        lm = service.lm
        return {
            "id": service.name,
            "object": "model",
            "created": started,
            "owned_by": "polythink",
            "max_model_len": lm.context,
            "polythink": {"dialect": lm.dialect.name, "mode": lm.settings.mode},
        }

    @routes.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card()]}

    @routes.get("/v1/models/{model:path}")
    async def model(model: str) -> dict[str, Any]:
        check_model(model, service)
        return card()

    @routes.get("/health")
    async def health() -> JSONResponse:
        state = service.state if service.state != "serving" or service.alive else "dead"
        return JSONResponse({"status": state}, 200 if state == "serving" else 503)

    @routes.get("/version")
    async def versions() -> dict[str, str]:
        return {"version": version("polythink")}

    @routes.get("/metrics")
    async def exposition() -> Response:
        return Response(generate_latest(metrics), media_type=CONTENT_TYPE_LATEST)

    return routes


class Collector:
    """The service's counters and the HTTP answers, read when Prometheus asks."""

    def __init__(self, service: Service, answers: Counter[tuple[str, str, int]]) -> None:
        self.service, self.answers = service, answers

    def collect(self) -> Iterator[Metric]:
        for key, value in self.service.counters().items():
            name, kind, about = METRICS.get(key, (key, "gauge", key.replace("_", " ")))
            family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
            metric = family(f"polythink_{name}", about, labels=["model_name"])
            metric.add_metric([self.service.name], value)
            yield metric
        http = CounterMetricFamily("polythink_http_requests", "HTTP answers.", labels=["method", "handler", "status"])
        for (method, handler, status), count in sorted(self.answers.items()):
            http.add_metric([method, handler, str(status)], count)
        yield http
