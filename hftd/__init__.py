"""The data plane: trading daemons, each one process with one poll loop, joined by ZeroMQ and shared pages.

Layers, top to bottom: daemons > venues > runtime, storage, strategies > bus, shm, sched > engine > wire >
native. The control plane uses none of it; the agent uses wire/control.py, shm and sched.
"""
