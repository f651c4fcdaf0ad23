"""Typed settings: pydantic models whose mistakes are told in one clear message."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pocketvit.core.errors import ConfigError
from pocketvit.core.names import nearest

__all__ = ["Config", "load_yaml", "parse_config", "parse_count"]


class Config(BaseModel):
    """Base of every settings class: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


ConfigT = TypeVar("ConfigT", bound=Config)

_SUFFIX = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}


def parse_config(cls: type[ConfigT], values: Mapping[str, Any], *, where: str) -> ConfigT:
    """Build `cls` from `values`.

    Args:
        where: the file or command the values came from, for the message.

    Raises:
        ConfigError: an unknown key (with the nearest known ones) or a value of the wrong kind.
    """
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(cls, problem, where) for problem in error.errors())) from None


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: the file is missing, is not YAML, or holds no mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} should hold `key: value` lines.")
    return content


def parse_count(text: str) -> int:
    """A positive count with an optional K, M, G or B: `"100M"` is 100 000 000, `"1.5G"` 1 500 000 000.

    Raises:
        ConfigError: not such a count.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([KMGB]?)\s*", text, flags=re.IGNORECASE)
    value = round(float(match[1]) * _SUFFIX[match[2].upper()]) if match else 0
    if value <= 0:
        raise ConfigError(f"'{text}' is not a count.", fix="Write it like 100M, 1.5G, 250k or 3000000.")
    return value


def _explain(cls: type[Config], problem: Any, where: str) -> str:
    *group, name = (str(part) for part in problem["loc"])
    key = ".".join([*group, name])
    if problem["type"] != "extra_forbidden":
        return f"{where}: {key}: {problem['msg']} (got {problem['input']!r})."
    known = _keys_in(cls, group)
    close = nearest(name, known)
    prefix = "".join(f"{part}." for part in group)
    hint = (
        f"Did you mean {' or '.join(prefix + found for found in close)}?"
        if close
        else f"Known keys: {', '.join(prefix + found for found in known)}."
    )
    return f"{where}: there is no setting '{key}'. {hint}"


def _keys_in(cls: type[BaseModel], group: list[str]) -> list[str]:
    """Names of the settings of `cls`, or of the settings class that its field `group` holds."""
    for part in group:
        inner = cls.model_fields[part].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        cls = inner
    return list(cls.model_fields)
