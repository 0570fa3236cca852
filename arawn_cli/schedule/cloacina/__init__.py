"""Run the jobs from the Cloacina workflow engine (`schedule serve`).

A workflow runs the command of its job in a child process. Only `service.py` loads the engine:
its schedules and runs are read from its database.
"""
