"""What keeps demo.py's page to itself: no address of the web is fetched for it or by it."""

import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import gradio as gr
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'"


def take_files_only(blocks: gr.Blocks) -> None:
    """Have every component take files of this machine and nothing else: Gradio would fetch an
    address of the web that a visitor sends for one, be it a slider."""
    for component in blocks.blocks.values():
        take = component.async_move_resource_to_block_cache
        component.async_move_resource_to_block_cache = partial(take_file, take)  # type: ignore[method-assign]


async def take_file(
    take: Callable[[str], Awaitable[str | None]], path: str | Path | None
) -> str | None:
    """What Gradio's `take` makes of a file, if it is one."""
    if path is None or not os.path.isfile(path):
        raise gr.Error("The upload was lost: drop the picture again.", print_exception=False)
    return await take(str(path))


class LocalOnly:
    """Middleware that refuses to be a proxy, and has browsers ask no other host."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        path = scope.get("path", "")
        if "=http" in path or "/proxy=" in path:
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b"This server is no proxy."})
            return

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                header = (b"content-security-policy", POLICY.encode())
                message = {**message, "headers": [*message["headers"], header]}
            await send(message)

        await self.app(scope, receive, send_with_policy)
