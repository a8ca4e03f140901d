"""What an agent answers over HTTP: `application` has its routes, `listening` its sockets, `instance_ports`
the ports of single instances. Everything comes from memory, from files of this host or from other hosts'
agents.
"""

__all__ = ["application", "instance_ports", "listening"]
