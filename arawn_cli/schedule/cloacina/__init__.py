"""Run the jobs from the Cloacina workflow engine (`schedule serve`)."""
