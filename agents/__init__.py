"""The host agent: starts, pins and supervises one host's instances, and answers for them. keeper/ outlives
it.

agent.py says who tells whom; daemon.py is the process. The control plane knows nothing of it.
"""
