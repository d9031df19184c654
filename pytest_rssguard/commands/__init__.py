"""The commands of `pytest-rssguard`, one module each: `NAME`, `SUMMARY`, `add_arguments(parser)`, `run(arguments) -> int`."""
