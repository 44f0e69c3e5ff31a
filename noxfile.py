#!/usr/bin/env -S uv run --script
# /// script
# dependencies = ["nox>=2025.10.14"]
# ///
"""Tasks in environments of their own; ``make test`` is the quicker way in one ``.venv``."""

import nox

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "uv|virtualenv"

CONSTRAINTS = ("-c", "constraints-dev.txt")


def install(session: nox.Session, *groups: str) -> None:
    """Install the package with dependency groups, at the pinned versions."""
    session.install(*CONSTRAINTS, "pip")
    options = [option for group in groups for option in ("--group", group)]
    session.run_install("python", "-m", "pip", "install", *CONSTRAINTS, "-e", ".", *options)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, format and spelling."""
    session.install(*CONSTRAINTS, "ruff", "codespell")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("codespell")


@nox.session
def imports(session: nox.Session) -> None:
    """Wings import only from wings below them (contract in pyproject.toml)."""
    install(session, "lint")
    session.run("lint-imports")


@nox.session
def typecheck(session: nox.Session) -> None:
    """Static types, strict."""
    install(session, "lint", "test")
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """Test suite with doctests; pytest options may follow ``--``."""
    install(session, "test")
    session.run("pytest", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """HTML pages in ``docs/_build/html``; any warning is an error."""
    install(session, "docs")
    session.run("sphinx-build", "-W", "-b", "html", "docs", "docs/_build/html", *session.posargs)


if __name__ == "__main__":
    nox.main()
