"""The manual page and the shells' completions know every command and option of the program."""

import re
import subprocess

import pytest
from test_usage import COMMANDS


def options_of(calotype, *command):
    options = calotype(*command, "--help").stdout.split("Examples:")[0]
    return set(re.findall(r"^  (?:-\w,)?(--[a-z][a-z-]*)", options, re.M))


def test_the_help_lists_options(calotype):
    assert {"--help", "--version"} == options_of(calotype)
    assert {"--sample", "--seed", "--moments", "--resize", "--dtype"} <= options_of(calotype, "encode")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_manual_page_has_every_option(calotype, root, command):
    text = (root / "docs/man/calotype.1").read_text()
    assert f".B calotype {command}" in text and f".SS {command}" in text
    own = text.split(f".SS {command}")[1].split(".SS")[0].split(".SH COMMON")[0] + text.split(".SH COMMON OPTIONS")[1]
    for option in options_of(calotype, command):
        assert re.search(option.replace("-", r"\\-") + r"\b", own), option


def test_the_manual_page_has_no_option_too_many(calotype, root):
    text = (root / "docs/man/calotype.1").read_text().replace("\\-", "-")
    known = options_of(calotype).union(*(options_of(calotype, command) for command in COMMANDS))
    assert set(re.findall(r"--[a-z][a-z-]*", text)) == known


def test_the_manual_page_is_well_formed(root):
    for line in (root / "docs/man/calotype.1").read_text().splitlines():
        if line.startswith((".", "'")):
            assert re.match(r"\.(TH|SH|SS|TP|PP|br|nf|fi|B|I|BR|IR|RB|RI)\b", line), line
        assert line.isascii()


def bash_completions(root, program, *words):
    script = f"""
        source {root}/src/cli/completions/calotype.bash
        COMP_WORDS=({" ".join(repr(w) for w in words)})
        COMP_CWORD={len(words) - 1}
        _calotype
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=program.folder, env=program.environment)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_bash_completes_commands(calotype, root):
    assert bash_completions(root, calotype, "calotype", "") == {*COMMANDS, "--help", "--version"}
    assert bash_completions(root, calotype, "calotype", "de") == {"decode"}


@pytest.mark.parametrize("command", COMMANDS)
def test_bash_completes_the_options_of_each_command(calotype, root, command):
    assert bash_completions(root, calotype, "calotype", command, "--") == options_of(calotype, command)


@pytest.mark.parametrize("command", COMMANDS)
def test_bash_completes_the_words_that_options_take(calotype, root, command):
    help_text = calotype(command, "--help").stdout
    for option, words in re.findall(r"^  (?:-\w,)?(--[a-z-]+) (\w+(?:\|\w+)+)", help_text, re.M):
        assert bash_completions(root, calotype, "calotype", command, option, "") == set(words.split("|")), option


def test_bash_completes_files(calotype, root, picture):
    picture("photo.png")
    assert "photo.png" in bash_completions(root, calotype, "calotype", "encode", "ph")
    assert "photo.png" in bash_completions(root, calotype, "calotype", "encode", "-o", "ph")


@pytest.mark.parametrize("command", COMMANDS)
def test_zsh_knows_the_options_of_each_command(calotype, root, command):
    text = (root / "src/cli/completions/_calotype").read_text()
    case = text.split(f"    {command})\n")[1].split(";;")[0]
    for group in re.findall(r"\$(report|model|computing)", case):
        case += text.split(f"  {group}=(")[1].split("\n  )")[0]
    specs = re.sub(r"\(-[^)]*\)", "", case)
    descriptions = re.sub(r"\[[^]]*\]", "[]", specs)
    assert set(re.findall(r"--[a-z][a-z-]*", descriptions)) == options_of(calotype, command)


@pytest.mark.parametrize("command", COMMANDS)
def test_fish_knows_the_options_of_each_command(calotype, root, command):
    text = (root / "src/cli/completions/calotype.fish").read_text()
    groups = {f"${name}": words for name, words in re.findall(r"^set -l (\w+) (.*)$", text, re.M)}
    found = {"--help"}
    for condition, option in re.findall(r"-n [\"']__calotype_in ([^\"']*)[\"'].* -l ([a-z-]+)", text):
        if command in groups.get(condition, condition).split():
            found.add("--" + option)
    assert found == options_of(calotype, command)
