"""Containers of OmegaConf as plain ones."""

from typing import Any

from omegaconf import OmegaConf


def plain(value: Any) -> Any:
    """Convert containers of OmegaConf to dicts and lists, interpolations to their values; others stay as they are."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
