"""Binds sockets and becomes a program that inherits them, as systemd's socket activation does it.

activate.py HOST,... PROGRAM ARGUMENT... FILE: a listening socket for each HOST and after them a
datagram socket are the descriptors from 3 on; `*` is every address of both families in one socket, or
of IPv4 where there is no other. PORT_0, PORT_1, ... in FILE become their ports.
"""

import os
import socket
import sys



def listen(host):
    if host != "*":
        return socket.create_server((host, 0))
    if socket.has_dualstack_ipv6():
        return socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("0.0.0.0", 0))


hosts, program = sys.argv[1].split(","), sys.argv[2]
sockets = [listen(host) for host in hosts]
sockets.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))

with open(sys.argv[-1], encoding="utf-8") as file:
    text = file.read()
for number, listener in enumerate(sockets[: len(hosts)]):
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
