"""Commands of README and docs exist: each is parsed by the application's own parser, and not run."""

from __future__ import annotations

import re
import shlex
import subprocess
from importlib import import_module
from pathlib import Path

import pytest
from cyclopts import App
from cyclopts.config import Yaml
from documentation import ALL, FENCE, PAGES, ROOT, Block, prose_of

from wsss.configs import find_config

PROGRAMS = ("vitseg", "cnnseg", "affinity", "wsss")
LANGUAGES = {"bash", "console", "python", "text", "yaml", "json"}
SHELL = [block for block in ALL if block.language in ("bash", "console")]
ASSIGNMENT = re.compile(r'^(\w+)="(.*?)"', re.M)
INLINE = re.compile(rf"`((?:{'|'.join(PROGRAMS)}) [a-z][^`]*)`")
EVERYWHERE = ("--config", "--extension")
"""Options of every command, which `wsss.console.run` takes away before the command parses the rest."""

ELLIPSIS = "..."
"""Stands for options that the text before has named: the command is not complete then, its options have to exist."""


def application(program: str) -> App:
    return import_module(f"{program}.cli").app


def commands_of(block: Block) -> list[list[str]]:
    """The words of each command of this toolkit in a block; what a block sets as a variable is put in."""
    text = block.text.replace("\\\n", " ")
    for name, value in ASSIGNMENT.findall(text):
        text = text.replace(f"${name}", value)
    text = re.sub(r"\$\(which (\w+)\)", r"\1", text)
    text = re.sub(r"\[(-[^\]\n]*)\]", r"\1", text)  # what may be left out
    found = []
    for line in text.splitlines():
        if block.language == "console" and not line.startswith("$ "):
            continue  # what a command has printed
        words = shlex.split(line.removeprefix("$ "), comments=True)
        place = next((place for place, word in enumerate(words) if word in PROGRAMS), None)
        if place is not None and (place == 0 or words[0] in ("srun", "torchrun")):
            found.append(words[place:])
    return found


def check_options(words: list[str]) -> None:
    """The command and each of its options exist."""
    program, *tokens = words
    chain, apps, rest = application(program).parse_commands([word for word in tokens if word != "--help"])
    assert chain, f"{' '.join(words)}: no such command"
    arguments = apps[-1].assemble_argument_collection(parse_docstring=False)
    known = {name for argument in arguments for name in (*argument.names, *argument.negatives)} | {
        *EVERYWHERE,
        "--help",
    }
    for word in rest:
        if word.startswith("--"):
            assert word.split("=")[0] in known, f"{' '.join(words)}: no option {word}"


def check_complete(words: list[str]) -> None:
    """The command parses, with the settings that it names: nothing is missing, unknown or of a wrong type."""
    program, *tokens = words
    app, source = application(program), ()
    for option in EVERYWHERE:
        while option in tokens:
            place = tokens.index(option)
            _, value = tokens[place : place + 2]
            del tokens[place : place + 2]
            if option == "--config":
                source = (Yaml(find_config(value), must_exist=True, use_commands_as_keys=False),)
    before, app.config = app.config, source
    try:
        app.parse_args(tokens, exit_on_error=False, print_error=False)
    finally:
        app.config = before


@pytest.mark.parametrize("block", ALL, ids=str)
def test_every_block_names_a_language(block: Block) -> None:
    assert block.language in LANGUAGES


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands_parse(block: Block) -> None:
    for words in commands_of(block):
        check_options(words)
        if ELLIPSIS not in words:
            check_complete(words)


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_the_text_exist(page: str) -> None:
    for words in INLINE.findall(prose_of(page)):
        command = re.sub(r"\[(-[^\]]*)\]", r"\1", words).replace("\n", " ")
        if not any(character in command for character in "*("):  # `vitseg list-*`, a call
            check_options(shlex.split(command))


@pytest.mark.parametrize("block", [block for block in SHELL if block.language == "bash"], ids=str)
def test_the_shell_reads_it(block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_scripts_and_targets_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for script in re.findall(r"python ((?:benchmarks|demo)/\w+\.py)", text):
        assert (ROOT / script).is_file(), script
    for test in re.findall(r"pytest ((?:tests/\w+\.py ?)+)", text):
        for path in test.split():
            assert (ROOT / path).is_file(), path
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    for target in re.findall(r"(?:^|`)make ([a-z]+)\b(?= *(?:#|`|$))", text, re.M):
        assert target in targets, f"make {target}"


def test_a_wrong_option_is_found() -> None:
    with pytest.raises(AssertionError, match="no option --nothing"):
        check_options(["vitseg", "seeds", "--nothing", "1"])
    with pytest.raises(AssertionError, match="no such command"):
        check_options(["vitseg", "seed"])
    with pytest.raises(Exception, match="requires an argument"):
        check_complete(["vitseg", "seeds", "--data", "x"])


@pytest.mark.parametrize("package", PROGRAMS)
def test_the_reference_names_what_the_package_exports(package: str) -> None:
    page = (ROOT / f"docs/reference/{package}.md").read_text(encoding="utf-8")
    for name in import_module(package).__all__:
        assert f"{package}.{name}" in page, name


def anchors(page: Path) -> set[str]:
    """Those that a site of repositories gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_beside_the_site(page: str) -> None:
    """Those within docs are looked at by `make docs`."""
    for link in re.findall(r"\]\((?!http)([^)]+)\)", prose_of(page)):
        file, _, anchor = link.partition("#")
        target = ROOT / (file or page)
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_blocks_of_lists_are_indented_by_four(page: str) -> None:
    """With less the site ends the list: its numbers begin anew, and a table is a line of text."""
    text = (ROOT / page).read_text(encoding="utf-8")
    assert not re.findall(r"\n\n {1,3}\S.*", prose_of(page)) + re.findall(r"\n {1,3}```.*", text)
