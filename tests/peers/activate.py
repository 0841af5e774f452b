"""Binds sockets and becomes a program that inherits them, as systemd's socket activation does it.

activate.py COUNT PROGRAM ARGUMENT... FILE: COUNT listening sockets on 127.0.0.1 and after them a
datagram socket are the descriptors from 3 on. PORT_0, PORT_1, ... in FILE become their ports.
"""

import os
import socket
import sys

count, program = int(sys.argv[1]), sys.argv[2]
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
sockets.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))

with open(sys.argv[-1], encoding="utf-8") as file:
    text = file.read()
for number, listener in enumerate(sockets[:count]):
    text = text.replace(f"PORT_{number}", str(listener.getsockname()[1]))
with open(sys.argv[-1], "w", encoding="utf-8") as file:
    file.write(text)

# Out of the way of the numbers they are to get.
high = [listener.fileno() for listener in sockets]
high = [os.dup2(number, 100 + place, inheritable=False) for place, number in enumerate(high)]
for place, number in enumerate(high):
    os.dup2(number, 3 + place)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = str(len(sockets))
os.environ["LISTEN_FDNAMES"] = ":".join(f"socket-{place}" for place in range(len(sockets)))
os.execv(program, [program, *sys.argv[3:]])
