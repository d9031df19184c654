"""The command line and ini values, as pytest knows them. Imported in every pytest run: imports next to nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from _pytest.nodes import Node

    from pytest_rssguard.settings import Settings

MARKER = (
    "rss_returns(tolerance=None, *, trim=None, retained=None, rounds=None, warmup=None, within=None, scope='body', "
    "reason=None): fail if RSS does not return to within the tolerance (default 4 MiB) after the test body, and say "
    "whether memory was leaked, or freed and retained."
)
_FLAGS = (
    ("report", "print the table of measured tests in the terminal summary"),
    ("all", "measure every test; those without a marker are reported, not judged"),
    ("judge-all", "measure and judge every test, those without a marker at the default tolerance"),
    ("step-summary", "append the Markdown report to the file that $GITHUB_STEP_SUMMARY names, where it is set"),
    ("off", "measure nothing; markers and the fixture stay valid"),
    ("trim", "default for trim: also purge the allocators before the judged reading"),
)
_VALUES = (
    ("json", "PATH", "write the JSON report"),
    ("md", "PATH", "write the Markdown report"),
    ("html", "PATH", "write the HTML report: one file that needs no network"),
    ("log", "PATH", "write a line an event, at once: survives a kill; of xdist workers PATH with .gw0 before its suffix"),
    ("tolerance", "SIZE", "default for tolerance (4MB)"),
    ("retained", "fail|warn|SIZE", "default for retained (fail)"),
    ("rounds", "N", "default for rounds: run each guarded body N times; every round must exceed the tolerance to fail"),
    ("tolerance-scale", "X", "a factor on every tolerance"),
    ("baseline", "DIR", "the regression gate: compare each measured test with the committed baseline in DIR"),
    ("update", "new|ratchet|all|prune", "write the baseline: add new tests; also lower; overwrite; drop stale entries"),
    ("candidate", "PATH", "write the baseline that would be committed to PATH"),
)
#: Arguments of the marker that ini values and command line give defaults for.
SETTINGS = ("tolerance", "trim", "retained", "rounds", "warmup", "within")
_ON_COMMAND_LINE = ("tolerance", "trim", "retained", "rounds")
#: Named in the design, not yet built: asking for one is an error, never ignored.
_LATER_FLAGS = ("isolate", "why")
_INI = (
    ("tolerance", "default tolerance of rss_returns, such as 4MB"),
    ("trim", "default for trim: true or false"),
    ("retained", "default for retained: fail, warn or a size"),
    ("rounds", "default for rounds: how often a guarded body runs, measured"),
    ("warmup", "default for warmup: how often it runs before that, unmeasured"),
    ("within", "default for within: seconds in which memory may still come back"),
    ("all", "measure every test: true or false"),
    ("judge_all", "measure and judge every test: true or false"),
    ("baseline", "folder of the committed baselines, from the ini file's folder on"),
    ("unmeasurable", "what a test that cannot be measured does: warn (default), fail or skip"),
)


def add_options(parser: pytest.Parser) -> None:
    """Register every option and ini value. Defaults are None, so that ini values apply."""
    group = parser.getgroup("rssguard", "memory-return assertions (rssguard)")
    for name, text in _FLAGS:
        group.addoption(f"--rssguard-{name}", dest=_dest(name), action="store_true", default=None, help=text)
    for name, metavar, text in _VALUES:
        group.addoption(f"--rssguard-{name}", dest=_dest(name), metavar=metavar, default=None, help=text)
    for name in _LATER_FLAGS:
        group.addoption(
            f"--rssguard-{name}",
            dest=_dest(name),
            action="store_true",
            default=None,
            help="not yet available",
        )
    for name, text in _INI:
        parser.addini(f"rssguard_{name}", text, type="string", default=None)


def is_marked(node: Node | None) -> bool:
    """Whether `node` or one above it has our marker: get_closest_marker's answer at a tenth of its price."""
    while node is not None:
        for mark in node.own_markers:
            if mark.name == "rss_returns":
                return True
        node = node.parent
    return False


def _dest(name: str) -> str:
    return f"rssguard_{name.replace('-', '_')}"


def reject_later(config: pytest.Config) -> str:
    """Return what to say to whoever asks for an option that does not exist yet, or ""."""
    for name in _LATER_FLAGS:
        if config.getoption(_dest(name)) is not None:
            return f"--rssguard-{name}: not yet available in this version; remove it"
    return ""


def _ini(config: pytest.Config, name: str) -> Any:  # noqa: ANN401 - an ini value is what the file says
    value = config.getini(f"rssguard_{name}")
    return value if value not in {None, ""} else None


def wants_report(config: pytest.Config) -> bool:
    """Whether this run shows or writes a report."""
    return any(config.getoption(f"rssguard_{name}") for name in ("report", "step_summary", "json", "md", "html"))


def runs_tests(config: pytest.Config) -> bool:
    """Whether tests run in this process: not so in the controller of pytest-xdist."""
    return hasattr(config, "workerinput") or not config.getoption("numprocesses", None)


def wants(config: pytest.Config, name: str) -> bool:
    """Whether the flag `name` is set on the command line, or else in the ini file. Raises SettingError."""
    if config.getoption(_dest(name)):
        return True
    value = _ini(config, name.replace("-", "_"))
    if value is None:
        return False
    from pytest_rssguard.settings import parse_flag

    return parse_flag(value, name=f"ini rssguard_{name.replace('-', '_')}")


def wants_all(config: pytest.Config) -> bool:
    """Whether every test is to be measured. Raises pytest.UsageError."""
    try:
        return wants(config, "all") or wants(config, "judge-all")
    except ValueError as error:
        import pytest

        raise pytest.UsageError(str(error)) from None


def wants_gate(config: pytest.Config) -> bool:
    """Whether this run names a baseline, or what is of use with one only."""
    named = any(config.getoption(_dest(name)) is not None for name in ("baseline", "update", "candidate"))
    return named or _ini(config, "baseline") is not None


def baseline_folder(config: pytest.Config) -> tuple[Path, str] | None:
    """Return where the committed baselines are, and how that was given; None where there is no gate.

    On the command line a path starts where pytest was started, in the ini file where that file is.
    """
    if given := config.getoption("rssguard_baseline"):
        return config.invocation_params.dir / given, str(given)
    if given := _ini(config, "baseline"):
        folder = (config.inipath.parent if config.inipath else config.rootpath) / given
        return folder, str(given)
    return None


def base_settings(config: pytest.Config) -> Settings:
    """Return the settings of a test without arguments of its own. Raises SettingError, naming the option at fault."""
    from pytest_rssguard.errors import SettingError
    from pytest_rssguard.settings import Settings, parse_scale

    settings = Settings()
    ini = {name: _ini(config, name) for name in SETTINGS}
    line = {name: config.getoption(_dest(name)) for name in _ON_COMMAND_LINE}
    for prefix, source in (("ini rssguard_", ini), ("--rssguard-", line)):
        try:
            settings = settings.with_arguments(source)
        except SettingError as error:
            raise error.named(prefix + error.name) from None
    scale = config.getoption("rssguard_tolerance_scale")
    if scale is not None:
        from dataclasses import replace

        try:
            settings = replace(settings, scale=parse_scale(scale))
        except SettingError as error:
            raise error.named("--rssguard-tolerance-scale") from None
    return settings


def unmeasurable_policy(config: pytest.Config) -> str:
    """Return "warn", "fail" or "skip". Raises SettingError."""
    from pytest_rssguard.errors import SettingError

    value = _ini(config, "unmeasurable") or "warn"
    if value not in {"warn", "fail", "skip"}:
        raise SettingError(name="ini rssguard_unmeasurable", given=value, accepted="warn, fail or skip")
    return str(value)
