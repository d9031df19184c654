"""Where CI services show a file of the commit that they test. Pure: environment variables in, an address out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from urllib.parse import quote


def source_base(environ: Mapping[str, str], *, rootdir: str) -> str:
    """Return what stands before a file's path in a link, or "" where no service is known: the link is relative then.

    `rootdir`: pytest's own; files are named from there, links from the checkout's top.
    GitHub: docs.github.com, "Default environment variables"; GitLab: docs.gitlab.com, "Predefined CI/CD variables".
    """
    github = [environ.get(name, "") for name in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_SHA")]
    if all(github):
        server, repository, commit = github
        return f"{server}/{repository}/blob/{commit}/{_below(environ.get('GITHUB_WORKSPACE', ''), rootdir)}"
    project, commit = environ.get("CI_PROJECT_URL", ""), environ.get("CI_COMMIT_SHA", "")
    if project and commit:
        return f"{project}/-/blob/{commit}/{_below(environ.get('CI_PROJECT_DIR', ''), rootdir)}"
    return ""


def _below(top: str, rootdir: str) -> str:
    """Return the way from the checkout's top to `rootdir`, "" or ending with a slash."""
    try:
        way = PurePosixPath(rootdir).relative_to(top) if top else PurePosixPath()
    except ValueError:
        return ""
    return "" if way == PurePosixPath() else quote(f"{way}/")
