"""One daemon without an agent: `hftd NAME --config FILE`.

run.py goes from the file to the exit code; config.py reads the file, agent.py takes the agent's place on the
daemon's control socket and keeps it registered.
"""

__all__ = ["run"]
