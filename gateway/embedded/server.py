"""The endpoint: an OpenAI-compatible server before the embedded models.

Every path under `/v1` is there a second time under `/logits/v1`, where `logprob` fields hold raw logits, as vLLM's do when it is
started with `--logprobs-mode raw_logits`.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from gateway.embedded import requests
from gateway.embedded.anthropic import MessagesReply
from gateway.embedded.chat import ChatReply
from gateway.embedded.completions import CompletionReply, token_ids
from gateway.embedded.engine import Computation, Engine, Library, choices
from gateway.embedded.errors import RequestError
from gateway.embedded.generation import Step
from gateway.embedded.model import Cache, Model
from gateway.embedded.reply import Reply, compact, now
from gateway.embedded.responses import ResponseReply
from gateway.embedded.weights import Float32

BODY_BYTES_MAX = 4 * 1024 * 1024
WHOLE_BLOCK_TOKENS = 8
"""Tokens computed between two looks whether the client of an answer in one piece is still there."""
INPUTS_MAX = 256
"""Texts of one embeddings request."""

Prepare = Callable[[bytes, Library, bool], Reply]
T = TypeVar("T")


def build_app(library: Library) -> Starlette:
    """Return the application; it owns one engine, and so one thread, for its whole life."""
    engine = Engine(library)

    def routes(raw_logits: bool) -> list[Route]:
        def post(path: str, prepare: Prepare) -> Route:
            async def endpoint(request: Request) -> Response:
                reply = prepare(await _body(request), library, raw_logits)
                return await _answer(request, engine, reply)

            return Route(path, endpoint, methods=["POST"])

        return [
            post("/v1/chat/completions", ChatReply),
            post("/v1/completions", CompletionReply),
            post("/v1/responses", ResponseReply),
            post("/v1/messages", MessagesReply),
            Route("/v1/embeddings", _embeddings(engine), methods=["POST"]),
            Route("/v1/models", _models(library)),
            Route("/v1/models/{name}", _models(library)),
        ]

    async def health(_: Request) -> Response:
        return Response()

    async def load(_: Request) -> Response:
        return JSONResponse({"server_load": engine.running})

    app = Starlette(
        routes=[*routes(False), Mount("/logits", routes=routes(True)), Route("/health", health), Route("/load", load)],
        exception_handlers={RequestError: _problem, HTTPException: _http_problem},
    )
    app.state.engine = engine
    return app


async def _body(request: Request) -> bytes:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > BODY_BYTES_MAX:
            raise RequestError(413, f"The body is larger than {BODY_BYTES_MAX} bytes.")
    return bytes(data)


async def _answer(request: Request, engine: Engine, reply: Reply) -> Response:
    work = reply.work

    def steps() -> Iterator[tuple[int, Step]]:
        return choices(engine.library, work.model, work.prompt, work.sampling, work.constraints)

    places = len(work.constraints)
    if reply.streamed:
        return EventStream(engine.start(steps, places=places), reply)
    async for block in _while_there(request, engine.start(steps, places=places, block=WHOLE_BLOCK_TOKENS)):
        for choice, step in block:
            reply.push(choice, step)
    return Response(compact(reply.whole()), media_type="application/json")


async def _while_there(request: Request, computation: Computation[T]) -> AsyncIterator[list[T]]:
    """Yield what is computed until the client leaves; then nobody is answered."""
    try:
        async for block in computation.blocks():
            yield list(block)
            if await request.is_disconnected():
                raise ClientDisconnect
    finally:
        computation.close()


class EventStream(StreamingResponse):
    """A generation as server-sent events. Starlette cancels it when the client leaves, and with it the computation."""

    def __init__(self, computation: Computation[tuple[int, Step]], reply: Reply) -> None:
        super().__init__(_events(computation, reply), media_type="text/event-stream")
        self._computation = computation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._computation.close()


async def _events(computation: Computation[tuple[int, Step]], reply: Reply) -> AsyncIterator[bytes]:
    for event in reply.begin():
        yield reply.encode(event)
    async for block in computation.blocks():
        for choice, step in block:
            for event in reply.push(choice, step):
                yield reply.encode(event)
    for event in reply.end():
        yield reply.encode(event)
    if closing := reply.closing():
        yield closing


def _embeddings(engine: Engine) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        asked = requests.decode(await _body(request), requests.EmbeddingRequest)
        model = engine.library.find(asked.model)
        if asked.dimensions is not None and asked.dimensions != model.config.width:
            raise RequestError(400, f"Embeddings of this model have {model.config.width} dimensions.", param="dimensions")
        if asked.encoding_format not in (None, "float", "base64"):
            raise RequestError(400, "encoding_format is float or base64.", param="encoding_format")
        texts = token_ids(asked.input, engine.library.tokenizer, "input")
        if len(texts) > INPUTS_MAX:
            raise RequestError(400, f"At most {INPUTS_MAX} inputs a request.", param="input")
        for ids in texts:
            requests.room(model.config.context, len(ids), None, "input")
        vectors: list[Float32] = []
        async for block in _while_there(request, engine.start(lambda: (embedded(model, ids) for ids in texts))):
            vectors += block
        as_text = asked.encoding_format == "base64"
        data = [
            {"object": "embedding", "index": i, "embedding": base64.b64encode(vector.tobytes()).decode() if as_text else vector.tolist()}
            for i, vector in enumerate(vectors)
        ]
        count = sum(map(len, texts))
        usage = {"prompt_tokens": count, "total_tokens": count}
        return JSONResponse({"object": "list", "data": data, "model": asked.model, "usage": usage})

    return endpoint


def embedded(model: Model, ids: list[int]) -> Float32:
    """Return a text's embedding, (width,): the mean of its last hidden states, scaled to length 1."""
    mean = model.hidden(ids, Cache(model.config, len(ids))).mean(0)
    unit: Float32 = (mean / np.sqrt((mean * mean).sum())).astype("<f4")
    return unit


def _models(library: Library) -> Callable[[Request], Awaitable[Response]]:
    created = now()

    def described(name: str) -> dict[str, Any]:
        context = library.find(name).config.context
        return {"id": name, "object": "model", "created": created, "owned_by": "headgate", "max_model_len": context}

    async def endpoint(request: Request) -> Response:
        name = request.path_params.get("name")
        if name is not None:
            return JSONResponse(described(name))
        return JSONResponse({"object": "list", "data": [described(known) for known in library.models]})

    return endpoint


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    said = {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}
    body: dict[str, Any] = {"error": said}
    if request.url.path.endswith("/v1/messages"):
        body = {"type": "error", "error": {"type": "not_found_error" if error.status == 404 else said["type"], "message": error.message}}
    headers = {"retry-after": "1"} if error.status == 503 else None
    return JSONResponse(body, error.status, headers)


async def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return await _problem(request, RequestError(error.status_code, f"{request.method} {request.url.path}: {error.detail}"))
