"""A WebSocket client that does what a scenario says.

usage: ws_client.py SCENARIO    (JSON)

{"uri": "wss://app.localhost/ws", "address": "127.0.0.1:8443", "ca": "ca.pem", "origin": null,
 "subprotocols": ["chat"], "headers": {"Cookie": "a=b"}, "steps": [STEP...]}

A STEP is one of {"text": "..."}, {"binary": SIZE} (both wait for their echo), {"ping": true},
{"idle": SECONDS}, {"close": CODE}, {"abort": true}, {"wait": "closed"}.
Prints one event: result{status, subprotocol, echoes, pongs, code, error}.
"""

import asyncio
import json
import os
import ssl
import sys

from events import tell
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus


async def run(scenario):
    result = {"status": None, "subprotocol": None, "echoes": 0, "pongs": 0, "code": None, "error": None}
    host, _, port = scenario["address"].rpartition(":")
    options = {"host": host.strip("[]"), "port": int(port), "proxy": None, "max_size": None, "open_timeout": 20}
    if scenario["uri"].startswith("wss:"):
        options["ssl"] = ssl.create_default_context(cafile=scenario["ca"])
    try:
        async with connect(
            scenario["uri"],
            origin=scenario.get("origin"),
            subprotocols=scenario.get("subprotocols"),
            additional_headers=scenario.get("headers"),
            **options,
        ) as connection:
            result["status"] = connection.response.status_code
            result["subprotocol"] = connection.subprotocol
            try:
                for step in scenario["steps"]:
                    await take(step, connection, result)
            except ConnectionClosed as error:
                result["error"] = str(error)
        result["code"] = connection.close_code
    except InvalidStatus as error:
        result["status"] = error.response.status_code
    except Exception as error:  # whatever it was, the test wants to see it
        result["error"] = f"{type(error).__name__}: {error}"
    tell("result", **result)


async def take(step, connection, result):
    if "text" in step or "binary" in step:
        message = step["text"] if "text" in step else os.urandom(step["binary"])
        await connection.send(message)
        result["echoes"] += await asyncio.wait_for(connection.recv(), 20) == message
    elif "ping" in step:
        await asyncio.wait_for(await connection.ping(), 20)
        result["pongs"] += 1
    elif "idle" in step:
        await asyncio.sleep(step["idle"])
    elif "close" in step:
        await connection.close(step["close"])
    elif "abort" in step:
        connection.transport.abort()
    elif "wait" in step:
        await asyncio.wait_for(connection.wait_closed(), 20)
    else:
        raise ValueError(f"no such step: {step}")


if __name__ == "__main__":
    asyncio.run(run(json.loads(sys.argv[1])))
