"""Which server wesctl talks to, and as whom: flag > environment > profile file. Reads no environment by itself.

# ~/.config/wesctl/config.toml, readable by its owner only
[default]
url = "https://wes.example.org/ga4gh/wes/v1"
token = "…"
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from app.client.connection import HeaderAuth, complete_base_url
from app.client.errors import Invalid
from app.client.wes_client import DEFAULT_URL, WesClient

_SECRETS = ("token", "auth")


@dataclass(frozen=True, slots=True)
class Access:
    """`auth` as wes-client writes it: `Header: value`, or the value of Authorization."""

    url: str | None = None
    token: str | None = None
    auth: str | None = None

    def connect(self, timeout: float = 30.0) -> WesClient:
        auth = HeaderAuth.parse(self.auth) if self.auth else None
        return WesClient(self.url or DEFAULT_URL, self.token, auth, timeout)


def choose(given: Access, profile: Access) -> Access:
    """What was given, completed by the profile. A profile's credentials go to the profile's own server only."""
    is_same_server = given.url is None or (
        profile.url is not None and complete_base_url(given.url) == complete_base_url(profile.url)
    )
    if given.token or given.auth or not is_same_server:
        return Access(given.url or profile.url, given.token, given.auth)
    return Access(given.url or profile.url, profile.token, profile.auth)


def read_profile(path: Path, name: str) -> Access:
    """The profile `name` of a file, an empty one where there is no file. Raises Invalid for what cannot be used."""
    try:
        with path.open("rb") as file:
            profiles = tomllib.load(file)
            is_private = not path.stat().st_mode & 0o077
    except FileNotFoundError:
        profiles, is_private = {}, True
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise Invalid(f"{path} cannot be read: {error}") from error
    if name not in profiles and name != "default":
        raise Invalid(f"{path} has no profile [{name}]")
    profile = profiles.get(name, {})
    if not is_private and any(profile.get(key) for key in _SECRETS):
        raise Invalid(f"{path} holds credentials and others may read it: chmod 600 {path}")
    return Access(*(_text(path, profile, key) for key in ("url", *_SECRETS)))


def _text(path: Path, profile: object, key: str) -> str | None:
    value = profile.get(key) if isinstance(profile, dict) else profile
    if value is not None and not isinstance(value, str):
        raise Invalid(f"{path}: {key} must be text")
    return value
