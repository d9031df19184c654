from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_rssguard.errors import UnreadableError
from pytest_rssguard.model import Region
from pytest_rssguard.smaps import (
    parse_rollup,
    parse_smaps,
    parse_stack_pointer,
    parse_statm,
    parse_thread_count,
    parse_thread_state,
)
from tests.builders import MIB, PAGE, region, smaps


def parsed(text: bytes) -> list[Region]:
    return list(parse_smaps(memoryview(text)))


def paths() -> st.SearchStrategy[str]:
    # the kernel writes a newline in a name as \012 (seq_path)
    name = st.text(st.characters(exclude_characters="\n\0", exclude_categories=["Cs"]), max_size=40)
    undecodable = st.binary(max_size=20).map(
        lambda raw: raw.replace(b"\n", b"").replace(b"\0", b"").decode("utf-8", "surrogateescape")
    )
    return st.one_of(
        st.sampled_from(("", "[heap]", "[stack]", "[anon:glibc: malloc]", "/dev/zero (deleted)", "/a b-c: 12 kB")),
        st.one_of(name, undecodable).map("/{}".format),
    )


@st.composite
def mappings(draw: st.DrawFn) -> list[Region]:
    at, regions = 0x1000, []
    for gap, pages in draw(st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 1 << 16)), max_size=40)):
        at += gap * PAGE
        rss = draw(st.integers(0, pages)) * PAGE
        regions.append(
            region(
                at,
                pages * PAGE,
                path=draw(paths()),
                perms=draw(st.sampled_from(("rw-p", "---p", "r-xp", "rw-s"))),
                rss=rss,
                inode=draw(st.integers(0, 1 << 32)),
                offset=draw(st.integers(0, 1 << 30)) * PAGE,
                lazy_free=draw(st.integers(0, rss // PAGE)) * PAGE,
                huge=draw(st.integers(0, rss // (2 * MIB))) * 2 * MIB,
            )
        )
        at += pages * PAGE
    return regions


@settings(deadline=None)
@given(mappings())
def test_what_the_kernel_shows_of_mappings_reads_back_as_those_mappings(regions: list[Region]) -> None:
    assert parsed(smaps(regions)) == regions


def test_a_recorded_mapping_is_read_field_by_field() -> None:
    text = b"""\
7f1c2a000000-7f1c2a021000 rw-p 00000000 00:00 0 
Size:                132 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:                  84 kB
Pss:                  84 kB
Anonymous:            80 kB
LazyFree:              4 kB
AnonHugePages:         0 kB
VmFlags: rd wr mr mw me nr sd 
7ffd3c5e9000-7ffd3c60a000 rw-p 00000000 00:00 0                          [stack]
Rss:                  20 kB
"""  # noqa: W291 - the kernel writes these blanks
    assert parsed(text) == [
        Region(
            start=0x7F1C2A000000,
            end=0x7F1C2A021000,
            perms="rw-p",
            offset=0,
            inode=0,
            path="",
            rss=84 << 10,
            anonymous=80 << 10,
            lazy_free=4 << 10,
            huge=0,
        ),
        region(0x7FFD3C5E9000, 0x21000, path="[stack]", rss=20 << 10, inode=0).__class__(
            start=0x7FFD3C5E9000,
            end=0x7FFD3C60A000,
            perms="rw-p",
            offset=0,
            inode=0,
            path="[stack]",
            rss=20 << 10,
            anonymous=0,
            lazy_free=0,
            huge=0,
        ),
    ]


def test_a_region_knows_its_size() -> None:
    assert region(0x1000, 5 * PAGE).size == 5 * PAGE


def test_no_text_is_no_mapping() -> None:
    assert parsed(b"") == []


def test_a_last_line_without_its_end_is_read() -> None:
    assert parsed(b"1000-2000 rw-p 0 0:0 0\nRss: 4 kB")[0].rss == 4096


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"hello\n", "no mapping in line b'hello'"),
        (b"Rss: 4 kB\n", "no mapping in line b'Rss: 4 kB'"),
        (b"1000-2000 rw-p 0 0:0 0\nRss: 4 kB\nhello\n", "no mapping in line b'hello'"),
        (b"1000-2000 rw-p 0 0:0 0\n" + 64 * b"Size: 4 kB\n" + b"Rss: 4 kB\n", "mapping 1000-2000 has no Rss line"),
        (b"1000-2000 rw-p 0 0:0 0\n", "mapping 1000-2000 has no Rss line"),
        (b"1000-2000 rw-p 0 0:0 0\n3000-4000 rw-p 0 0:0 0\nRss: 4 kB\n", "mapping 1000-2000 has no Rss line"),
        (b"1000-2000 rw-p 0 0:0 0\nRss: 4 MB\n", "no size in line b'Rss: 4 MB'"),
        (b"1000-2000 rw-p 0 0:0 0\nRss: four kB\n", "no size in line b'Rss: four kB'"),
        (b"1000-2000 rw-p 0 0:0 0\nRss: -4 kB\n", "no size in line b'Rss: -4 kB'"),
        (b"1000-2000 rw-p 0 0:0 0\nRss: 4\n", "no size in line b'Rss: 4'"),
        (b"2000-1000 rw-p 0 0:0 0\nRss: 4 kB\n", "no mapping in line b'2000-1000 "),
        (b"1000-2000-3000 rw-p 0 0:0 0\nRss: 4 kB\n", "no mapping in line b'1000-2000-3000 "),
        (b"1000-xyz rw-p 0 0:0 0\n", "no mapping in line b'1000-xyz "),
        (b"1000-2000 rw-p\n", "no mapping in line b'1000-2000 rw-p'"),
        (b"1000-2000 \xff\xff 0 0:0 0\n", "no mapping in line"),
    ],
)
def test_a_text_that_is_no_smaps_is_refused_with_the_line(text: bytes, message: str) -> None:
    with pytest.raises(UnreadableError) as raised:
        parsed(text)
    assert message in str(raised.value)


@settings(deadline=None)
@given(regions=mappings(), at=st.integers(0, 1 << 20), noise=st.binary(max_size=12))
def test_a_damaged_smaps_is_read_or_refused(regions: list[Region], at: int, noise: bytes) -> None:
    text = smaps(regions)
    cut = at % (len(text) + 1)
    for damaged in (text[:cut], text[:cut] + noise + text[cut + len(noise) :]):
        try:
            found = parsed(damaged)
        except UnreadableError:
            continue
        assert all(each.size > 0 and each.rss >= 0 for each in found)


@pytest.mark.parametrize(
    "parse",
    [
        parsed,
        lambda text: parse_statm(text, PAGE),
        parse_rollup,
        parse_stack_pointer,
        parse_thread_count,
    ],
)
@settings(deadline=None, max_examples=60)
@given(
    text=st.one_of(
        st.binary(max_size=300),
        st.text("0123456789abcdef-+_ \n)(Rs:kBx", max_size=100).map(str.encode),
    )
)
@example(text=b"9" * 6000)
@example(text=b"9" * 6000 + b" 1 2 3")
@example(text=b"Rss: " + b"9" * 6000 + b" kB")
@example(text=b"1000-2000 rw-p 0 0:0 0\nRss: " + b"9" * 6000 + b" kB")
def test_random_text_is_read_or_refused(parse: Callable[[bytes], object], text: bytes) -> None:
    try:
        parse(text)
    except UnreadableError as error:
        assert len(str(error)) < 500  # noqa: PT017 - nothing is raised where the text happens to be valid


def test_statm_counts_pages() -> None:
    assert parse_statm(b"2731 514 412 1 0 300 0\n", 4096) == (2731 * 4096, 514 * 4096)


@pytest.mark.parametrize("text", [b"", b"12", b"a b c", b"12 b"])
def test_a_statm_without_counts_is_refused(text: bytes) -> None:
    with pytest.raises(UnreadableError, match="statm: expected page counts"):
        parse_statm(text, 4096)


def test_a_rollup_gives_rss() -> None:
    text = b"55d0c8a00000-7ffd3c60a000 ---p 00000000 00:00 0    [rollup]\nRss:  2056 kB\nPss:  1000 kB\n"
    assert parse_rollup(text) == 2056 * 1024


@pytest.mark.parametrize("text", [b"", b"Pss: 1 kB\n", b"Rss: many kB\n"])
def test_a_rollup_without_rss_is_refused(text: bytes) -> None:
    with pytest.raises(UnreadableError):
        parse_rollup(text)


@settings(deadline=None)
@given(mappings())
def test_the_rollup_is_the_sum_of_the_mappings(regions: list[Region]) -> None:
    total = sum(each.rss for each in regions)
    head = b"1000-2000 ---p 00000000 00:00 0    [rollup]\n"
    rollup = parse_rollup(head + f"Rss:{total // 1024:>20} kB\n".encode())
    assert rollup == sum(each.rss for each in parsed(smaps(regions)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"202 0x7f 0x80 0x0 0x0 0x0 0x0 0x7ffd3c608a10 0x7f1c2b0f5e2c\n", 0x7FFD3C608A10),
        (b"-1 0x7ffd3c608a10 0x7f1c2b0f5e2c\n", 0x7FFD3C608A10),
        (b"running\n", None),
        (b"", None),
        (b"a b zz c\n", None),
    ],
)
def test_the_stack_pointer_is_the_last_but_one_field(text: bytes, expected: int | None) -> None:
    assert parse_stack_pointer(text) == expected


def test_the_thread_count_is_found_behind_any_name() -> None:
    fields = " ".join(["S", *["0"] * 16, "9", "0", "123"])
    assert parse_thread_count(f"42 (a) S (b 1 2) {fields}\n".encode()) == 9


@pytest.mark.parametrize("text", [b"", b"42 (python) S 1 2 3", b"42 (x) " + b"a " * 30])
def test_a_stat_without_thread_count_is_refused(text: bytes) -> None:
    with pytest.raises(UnreadableError, match="stat: no thread count"):
        parse_thread_count(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"Name:\tx\nState:\tS (sleeping)\nvoluntary_ctxt_switches:\t40\nnonvoluntary_ctxt_switches:\t2\n", ("S", 42)),
        (b"State:\t\nvoluntary_ctxt_switches:\tmany\n", ("R", 0)),
        (b"", ("R", 0)),
    ],
)
def test_a_thread_whose_state_is_not_told_reads_as_running(text: bytes, expected: tuple[str, int]) -> None:
    assert parse_thread_state(text) == expected


def test_a_line_without_end_is_refused_before_it_is_held() -> None:
    with pytest.raises(UnreadableError, match="a mapping of more than"):
        parsed(b"x" * (1 << 20))
