"""Act as the owner of Arawn's tree if root started the program.

Root must not do what the owner could not: agents write into the tree, and the owner decides what
lies beside it. So this process becomes the owner before it opens anything that the owner controls.
A child that stays root inspects the processes of other accounts.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pydantic

import arawn_cli
from arawn_cli.arawn.layout import WORKSTREAMS
from arawn_cli.config.loader import Config, Flags, failing_pings, load, state_directory
from arawn_cli.config.lookup import MAX_CONFIG_BYTES, SYSTEM_FILE, find_config
from arawn_cli.errors import ConfigurationError, RefusedError
from arawn_cli.fs.files import forget_content, keep_content, open_output
from arawn_cli.fs.permissions import Login, Way, account_name, way_to
from arawn_cli.names import escape
from arawn_cli.schedule.job_state import state_of_jobs

log = logging.getLogger(__name__)

_ROOT = 0
_MAX_SECRET_BYTES = 16 * 1024 * 1024


class _Input(NamedTuple):
    """A configuration file or a root, as messages name it, and who decides what it is."""

    title: str
    way: Way


def load_as_owner(flags: Flags, outputs: Mapping[Path, int] | None = None) -> Config:
    """Load the configuration. If root started this process, become the owner of the root for good.

    The state is that of the installed jobs of the root, if this account can use it, whatever the
    variables of this shell say. `outputs` are files that the command line names, with their modes.
    Root opens them before.

    Raises:
        ConfigurationError, RefusedError: as `load`; or it is not clear as whom root should act, or
            root may not become that account.
    """
    config = _load(flags, outputs)
    directory = state_of_jobs(config, os.environ)
    return config if directory is None or not _is_usable(directory) else replace(config, state_directory=directory)


def _is_usable(directory: Path) -> bool:
    """Return whether this account can write to a directory, or create it."""
    existing = next(path for path in (directory, *directory.parents) if os.path.exists(path))
    return os.access(existing, os.R_OK | os.W_OK | os.X_OK, effective_ids=True)


def _load(flags: Flags, outputs: Mapping[Path, int] | None) -> Config:
    if os.geteuid() != _ROOT:
        return load(flags, os.environ)
    flags, file = _with_config(flags)
    if (user := account_for(file)) != _ROOT:
        _forget_of_root("CREDENTIALS_DIRECTORY")
        _become(user, file)
    config = load(flags, os.environ)
    with failing_pings({} if config.dry_run else config.pings):
        root = _root_of(config)
        owner = account_for(file, root)
        if user != _ROOT:
            return config
        if owner == _ROOT:
            forget_content(config.file)
            for place in (*config.databases, config.state_directory):
                require_of_root(place)
            return config
        return _become_owner(owner, root, config, flags, outputs or {})


def _become_owner(owner: int, root: _Input, config: Config, flags: Flags, outputs: Mapping[Path, int]) -> Config:
    """Open as root the files that perhaps only root can open, and become the owner of the root."""
    for path in _secrets(config, flags):
        if _way_to(path).is_of_root:
            keep_content(path, _MAX_SECRET_BYTES)
    for path, mode in outputs.items():
        _open_output(path, mode, owner)
    _become(owner, root)
    return _for_account(config)


@contextmanager
def loaded_as_owner(flags: Flags) -> Iterator[Config]:
    """Load the configuration and act as the owner of the root, only inside the context.

    `schedule` needs root again afterwards.

    Raises:
        ConfigurationError, RefusedError: as `load_as_owner`.
    """
    if os.geteuid() != _ROOT:
        yield load(flags, os.environ)
        return
    flags, file = _with_config(flags)
    with ExitStack() as stack:
        if (user := account_for(file)) != _ROOT:
            stack.enter_context(_acting(user, file))
        config = load(flags, os.environ)
        root = _root_of(config)
        owner = account_for(file, root)
        if user == _ROOT:
            forget_content(config.file)
        if owner == _ROOT:
            for place in config.databases:
                require_of_root(place)
        elif user == _ROOT:
            stack.enter_context(_acting(owner, root))
            config = _for_account(config)
        yield config


def become_account_of_directory(path: Path) -> None:
    """Become the account that controls a directory in which root will write, if any.

    Raises:
        RefusedError: several accounts can replace it.
    """
    if os.geteuid() == _ROOT:
        directory = _Input(f"the directory {escape(str(path))}", _way_to(path))
        if (user := account_for(directory)) != _ROOT:
            _become(user, directory)


def become_owner_of_configuration(flags: Flags) -> None:
    """Become the owner of the configuration if root started this process, for `schedule serve`.

    Otherwise the jobs that it starts become the owners of their roots.

    Raises:
        RefusedError: as `load_as_owner`.
    """
    if os.geteuid() == _ROOT:
        _, file = _with_config(flags)
        if (user := account_for(file)) != _ROOT:
            _forget_of_root()
            _become(user, file)


def require_of_root(path: Path) -> None:
    """Refuse a directory or database that root would use and about which another account decides.

    Raises:
        RefusedError: they do.
    """
    if os.geteuid() == _ROOT and (accounts := _way_to(path).accounts):
        names = " and ".join(sorted(map(account_name, accounts)))
        raise RefusedError(
            f"{names} can change {escape(str(path))}, so root does not use it for this root: name another one in the configuration"
        )


def account_for(file: _Input, root: _Input | None = None) -> int:
    """Return the user id as which root reads a configuration and works on a root, once known.

    Raises:
        RefusedError: two accounts decide about them, or the account of the configuration is not
            the owner of the root.
    """
    if file.way.is_shared:
        raise RefusedError(
            f"accounts other than root can write or replace {file.title}: refused; fix its permissions and those of its parents"
        )
    for each in (file, root):
        if each is not None and len(each.way.accounts) > 1:
            names = " and ".join(sorted(map(account_name, each.way.accounts)))
            raise RefusedError(
                f"{each.title} is below directories or links of {names}: root cannot know for whom to act; run this as its owner"
            )
    of_file = next(iter(file.way.accounts), _ROOT)
    if root is None:
        return of_file
    of_root = next(iter(root.way.accounts), _ROOT)
    if of_file not in (_ROOT, of_root):
        raise RefusedError(
            f"{file.title} belongs to {account_name(of_file)}, but {root.title} to {account_name(of_root)}: "
            f"refused; use a configuration of {account_name(of_root)} or of root"
        )
    return of_root


def _with_config(flags: Flags) -> tuple[Flags, _Input]:
    """Return flags that name the configuration file that this environment has, and that file."""
    path = find_config(flags.config, os.environ, SYSTEM_FILE)
    if path is None:
        return flags, _Input("the defaults", Way(Path("/"), frozenset(), is_shared=False, has_links=False))
    way = _way_to(path)
    if way.is_of_root:  # in a sticky directory, another account could create it from now on
        keep_content(path, MAX_CONFIG_BYTES)
    return replace(flags, config=path), _Input(f"the configuration {escape(str(path))}", way)


def _root_of(config: Config) -> _Input:
    return _Input(f"the root {escape(str(config.root))}", _way_to(config.root / WORKSTREAMS))


def _way_to(path: Path) -> Way:
    try:
        return way_to(path)
    except OSError as error:
        raise ConfigurationError(f"cannot use {escape(str(path))}: {error.strerror}") from error


def _secrets(config: Config, flags: Flags) -> list[Path]:
    """Return named files of configuration and options that only root may be able to read."""
    from arawn_cli.delivery.credentials import CREDENTIAL, NOTIFY_CREDENTIAL, credential_file  # as in `_become`

    secrets = [config.relay.token_file, config.relay.ca_file, credential_file(os.environ, CREDENTIAL)] if config.relay else []
    if config.notify_urls is not None:
        secrets += [config.notify_urls, credential_file(os.environ, NOTIFY_CREDENTIAL)]
    return [path for path in (*secrets, flags.apply) if path is not None]


def _forget_of_root(*variables: str) -> None:
    """Remove variables, and that with root's token: another account decides on the relay."""
    from arawn_cli.delivery.credentials import VARIABLE  # as in `_become`

    for name in (VARIABLE, *variables):
        if os.environ.pop(name, None) is not None:
            log.warning("$%s of root is not used: another account controls the configuration", name)


def _open_output(path: Path, mode: int, user: int) -> None:
    """Open an output as root, unless the account itself decides where it is."""
    way = _way_to(path)
    if user in way.accounts:
        return
    try:
        if way.has_links or way.is_shared:
            raise RefusedError(
                f"cannot write {escape(str(path))} as root: other accounts control its path; name a path without their links"
            )
        open_output(path, way.path, mode)
    except OSError as error:
        raise ConfigurationError(f"cannot write {escape(str(path))}: {error.strerror}") from error


def _become(user: int, source: _Input) -> None:
    """Become an account for good, but keep a child that stays root."""
    # Only root that becomes another account needs them. That account may not be able to read them.
    from arawn_cli.delivery.credentials import keep_variables
    from arawn_cli.fs.in_use import stay_root_in_child

    try:
        stay_root_in_child()
        login = Login.of(user)
        login.become()
    except OSError as error:
        raise RefusedError(
            f"root cannot act as {account_name(user)}, the owner of {source.title}: {error.strerror}; run this as that account"
        ) from error
    _set_variables(login.environment(os.environ))
    keep_variables(os.environ)
    _require_program(user)
    log.info("root acts as %s, the owner of %s", account_name(user), source.title)


def _require_program(user: int) -> None:
    """Refuse an account that cannot import the rest of this program and of Python."""
    for file in (arawn_cli.__file__, pydantic.__file__, os.__file__):
        if not os.access(file, os.R_OK):
            where = f"{account_name(user)} cannot read {Path(file).parent}, which this program needs"
            raise RefusedError(f"{where}: install it where every account can read it, such as /opt")


@contextmanager
def _acting(user: int, source: _Input) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            login = Login.of(user)
            stack.enter_context(login.acting())
        except OSError as error:
            raise RefusedError(f"root cannot act as {account_name(user)}, the owner of {source.title}: {error.strerror}") from error
        before = dict(os.environ)
        stack.callback(_set_variables, before)
        _set_variables(login.environment(before))
        yield


def _set_variables(variables: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)


def _for_account(config: Config) -> Config:
    """Return the configuration with absolute paths, and this account's state directory."""
    return replace(
        config,
        root=config.root.absolute(),
        databases=tuple(path.absolute() for path in config.databases),
        state_directory=state_directory(config.file, config.tables, os.environ),
    )
