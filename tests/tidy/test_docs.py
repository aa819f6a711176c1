"""The manual points at what is there, and what it says to type is right."""

from __future__ import annotations

import argparse
import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from gateway.cli.commands import COMMANDS
from policies.load import load

from .sources import ROOT, named

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not re.match(r"\w+:", target):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_files_that_are_named_exist(page: Path) -> None:
    for target in re.findall(r"`((?:gateway|policies|monitors|tests|deploy|docs)/[\w./-]+)`", page.read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_that_are_named_exist(page: Path) -> None:
    for command, rest in re.findall(r"headgate ([a-z]+)([^\n`|(]*)", page.read_text(encoding="utf-8")):
        if command not in COMMANDS:
            assert not rest.strip().startswith("-"), f"headgate {command}"
            continue
        parser = argparse.ArgumentParser()
        import_module(f"gateway.cli.{command}").configure(parser)
        options = {option for each in parsers(parser) for option in each._option_string_actions}
        for option in re.findall(r"--[a-z-]+", rest.partition("#")[0]):
            assert option in options, f"headgate {command} {option}"


def parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [parser, *(each for action in below for each in action.choices.values())]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_policies_that_are_shown_are_right(page: Path) -> None:
    """A fragment is completed with what it leaves out."""
    for text in re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        shown = yaml.safe_load(text)
        whole = {
            "version": 1,
            "backends": [{"name": "a", "kind": "vllm", "model": "m", "replicas": ["http://h:1"]}],
            "routes": [{"name": "r", "matches": [{"models": ["m"]}], "backend": "a"}],
        } | shown
        load(yaml.safe_dump(whole).encode(), name=named(page), read=lambda path: b"ab" * 32, env={"BIG_KEY": "secret"})
