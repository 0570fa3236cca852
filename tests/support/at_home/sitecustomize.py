"""The list of accounts gives the account that runs the tests the home that `HOME` names.

Whoever has a configuration of Arawn's keeps it out of the tests by this: Python imports it at its start where
`PYTHONPATH` leads here, which `tests.conftest` sees to only where there is such a configuration.
"""

from __future__ import annotations

import os
import pwd

_listed = pwd.getpwuid


def _at_home(user: int) -> pwd.struct_passwd:
    entry = _listed(user)
    if user != os.getuid() or "HOME" not in os.environ:
        return entry
    return pwd.struct_passwd((*entry[:5], os.environ["HOME"], entry.pw_shell))


pwd.getpwuid = _at_home
