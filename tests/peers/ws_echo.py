"""A WebSocket server that sends every message back.

usage: ws_echo.py [SUBPROTOCOL]

Events: listening{port}, opened{path, headers}, message{size}, closed{code}.
"""

import asyncio
import sys

from events import end_with_parent, tell
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def echo(connection):
    request = connection.request
    tell("opened", path=request.path, headers=[[name, value] for name, value in request.headers.raw_items()])
    try:
        async for message in connection:
            tell("message", size=len(message))
            await connection.send(message)
    except ConnectionClosed:
        pass  # by any code, perhaps while an answer was under way
    tell("closed", code=connection.close_code)


async def main(subprotocols):
    async with serve(echo, "127.0.0.1", 0, subprotocols=subprotocols or None, max_size=None) as server:
        tell("listening", port=server.sockets[0].getsockname()[1])
        await asyncio.get_running_loop().run_in_executor(None, end_with_parent)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
