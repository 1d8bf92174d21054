"""Whole files or none: failures of every kind leave what was there before, and nothing else."""

import errno
import hashlib
import os
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import pytest

from ds2_deploy.errors import ModelNotFoundError, OutputError
from ds2_deploy.files import atomic_folder, atomic_path, copy, sha256

Writer = Callable[[Path], AbstractContextManager[Path]]
model_folder = partial(atomic_folder, marker="metadata.json")


def tree(folder: Path) -> dict[str, str | None]:
    """Every path under `folder`, hidden ones included, with the text of files."""
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def write_model(folder: Path, text: str) -> None:
    (folder / "metadata.json").write_text(text)
    (folder / "engines").mkdir()
    (folder / "engines" / "a.plan").write_text(text)


def write_and_fail(path: Path, failure: BaseException) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise failure


def write_model_and_fail(path: Path, failure: BaseException) -> None:
    with model_folder(path) as temporary:
        write_model(temporary, "half")
        raise failure


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes: the kernel's own failing write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match="Cannot write"), atomic_path(tmp_path / "loop" / "out.txt") as temporary:
        temporary.write_text("new")


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "out.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("shared/out.txt")
    with atomic_path(tmp_path / "link.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "shared" / "out.txt").read_text() == "new"
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["out.txt"]


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit((tmp_path / "pipe").read_text)
        with atomic_path(tmp_path / "pipe") as path:
            path.write_text("text")
        assert read.result(10) == "text"
    assert (tmp_path / "pipe").is_fifo()


def test_a_file_appears_whole_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "out.txt"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent  # the same file system, so that the rename is atomic
        temporary.write_text("text")
        assert not path.exists()
    assert tree(path.parent) == {"out.txt": "text"}


def test_a_file_is_replaced_at_the_end_only(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert tree(tmp_path) == {"out.txt": "new"}


@pytest.mark.parametrize("failure", [RuntimeError("x"), KeyboardInterrupt(), ModelNotFoundError("x")])
def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path, failure: BaseException) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(type(failure)):
        write_and_fail(path, failure)
    assert tree(tmp_path) == {"out.txt": "old"}


def test_a_failure_before_anything_is_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="early"), atomic_path(tmp_path / "out.txt"):
        raise RuntimeError("early")
    assert tree(tmp_path) == {}


def test_a_full_disk_is_one_sentence_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(OutputError, match=r"^Cannot write .*out\.txt: No space left on device\.$"):
        write_and_fail(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert tree(tmp_path) == {"out.txt": "old"}


def test_a_write_that_the_system_cuts_short_leaves_nothing(tmp_path: Path) -> None:
    refused = pytest.raises(OutputError, match=r"^Cannot write .*out: File too large\.$")
    with refused, largest_file(1000), atomic_path(tmp_path / "out") as temporary:
        temporary.write_bytes(bytes(5000))
    with refused, largest_file(1000), model_folder(tmp_path / "out") as temporary:
        (temporary / "model.onnx").write_bytes(bytes(5000))
    assert tree(tmp_path) == {}


def test_an_error_without_a_reason_of_the_system_keeps_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"out\.txt: the encoder gave up\.$"), atomic_path(tmp_path / "out.txt"):
        raise OSError("the encoder gave up")


@pytest.mark.parametrize("writer", [atomic_path, model_folder])
@pytest.mark.parametrize("below", ["out", "deep/out", "very/deep/out"])
def test_a_file_in_the_way_of_a_folder(tmp_path: Path, writer: Writer, below: str) -> None:
    """Permission bits do not stop root; a regular file in the path stops everybody."""
    (tmp_path / "file").write_text("old")
    refused = pytest.raises(OutputError, match=r"^Cannot write .*out: .*[Nn]ot a (folder|directory)\.$")
    with refused, writer(tmp_path / "file" / below):
        pytest.fail("the body must not run")
    assert tree(tmp_path) == {"file": "old"}


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs Linux's /proc, which nobody can write to")
@pytest.mark.parametrize("writer", [atomic_path, model_folder])
def test_a_place_where_nobody_can_write(writer: Writer) -> None:
    refused = pytest.raises(OutputError, match=r"^Cannot write /proc/ds2-test: .+\.$")
    with refused, writer(Path("/proc/ds2-test")) as temporary:
        temporary.write_text("x")


def test_a_folder_where_the_file_should_go(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match=r"out: Is a directory\.$"), atomic_path(tmp_path / "out") as temporary:
        temporary.write_text("x")
    assert tree(tmp_path) == {"out": None}


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model"
    with model_folder(path) as temporary:
        write_model(temporary, "1")
        assert not path.exists()
    files = {"model/metadata.json": "1", "model/engines/a.plan": "1"}
    assert tree(path.parent) == {"model": None, "model/engines": None, **files}


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o755), (0o027, 0o750), (0o077, 0o700), (0o002, 0o775)])
def test_a_folder_heeds_the_umask(tmp_path: Path, mask: int, mode: int) -> None:
    """It has not the private 0o700 of a temporary folder, nor what the user does not want to give."""
    before = os.umask(mask)
    try:
        with model_folder(tmp_path / "model") as temporary:
            write_model(temporary, "1")
    finally:
        os.umask(before)
    assert (tmp_path / "model").stat().st_mode & 0o777 == mode
    assert (tmp_path / "model" / "metadata.json").stat().st_mode & 0o777 == mode & 0o666


def test_a_model_folder_is_replaced_as_a_whole_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    write_model(path, "old")
    (path / "stale").write_text("old")
    with model_folder(path) as temporary:
        (temporary / "metadata.json").write_text("new")
        assert (path / "metadata.json").read_text() == "old"
    assert tree(tmp_path) == {"model": None, "model/metadata.json": "new"}


@pytest.mark.parametrize(
    "failure", [RuntimeError("x"), KeyboardInterrupt(), ModelNotFoundError("x"), OSError(errno.EIO, "x")]
)
def test_a_failure_leaves_the_old_folder_and_no_other(tmp_path: Path, failure: BaseException) -> None:
    path = tmp_path / "model"
    path.mkdir()
    write_model(path, "old")
    before = tree(tmp_path)
    expected = OutputError if type(failure) is OSError else type(failure)
    with pytest.raises(expected):
        write_model_and_fail(path, failure)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("renamed", "done", "left"), [(1, False, "old"), (1, True, "old"), (2, False, "old"), (2, True, "new")]
)
def test_an_interrupt_between_two_folders_loses_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: int, done: bool, left: str
) -> None:
    """Before or after each of the two renamings."""
    path, calls, replace = tmp_path / "model", [], Path.replace
    path.mkdir()
    write_model(path, "old")

    def interrupted(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) != renamed:
            return replace(self, target)
        if done:
            replace(self, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), model_folder(path) as temporary:
        write_model(temporary, "new")
    assert [item.name for item in tmp_path.iterdir()] == ["model"]
    assert (path / "metadata.json").read_text() == left


def test_leftovers_of_a_killed_process_do_not_stop_the_next(tmp_path: Path) -> None:
    for name in ("model", ".model.old", ".model.abcdefgh.old"):
        (tmp_path / name).mkdir()
        write_model(tmp_path / name, "old")
    with model_folder(tmp_path / "model") as temporary:
        write_model(temporary, "new")
    assert (tmp_path / "model" / "metadata.json").read_text() == "new"


def test_somebody_elses_folder_or_file_is_not_replaced(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    for path in (home, home / "thesis.tex"):
        refused = pytest.raises(OutputError, match=r"holds no metadata\.json; remove it or choose another path")
        with refused, model_folder(path):
            pytest.fail("the body must not run")
    assert tree(tmp_path) == {"home": None, "home/thesis.tex": "years of work"}


def test_an_empty_folder_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    with model_folder(Path("out")) as temporary:
        (temporary / "metadata.json").write_text("1")
    assert tree(tmp_path) == {"out": None, "out/metadata.json": "1"}


def test_the_target_of_a_link_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    write_model(tmp_path / "v1", "old")
    (tmp_path / "current").symlink_to("v1")
    with model_folder(tmp_path / "current") as temporary:
        (temporary / "metadata.json").write_text("new")
    assert (tmp_path / "current").is_symlink()
    assert (tmp_path / "v1" / "metadata.json").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "v1"]


@pytest.mark.parametrize("links", [False, True])
def test_a_folder_is_copied_with_its_links_or_with_what_they_lead_to(tmp_path: Path, links: bool) -> None:
    (tmp_path / "lm" / "deep").mkdir(parents=True)
    (tmp_path / "shared.arpa").write_text("words")
    (tmp_path / "lm" / "deep" / "lm.arpa").symlink_to("../../shared.arpa")
    copy(tmp_path / "lm", tmp_path / "new", links=links)
    assert (tmp_path / "new" / "deep" / "lm.arpa").is_symlink() == links
    assert tree(tmp_path / "new") == {"deep": None, "deep/lm.arpa": "words"}
    (tmp_path / "link").symlink_to("lm")
    copy(tmp_path / "link", tmp_path / "as it was", links=links)
    assert (tmp_path / "as it was").is_symlink() == links


def test_what_cannot_be_copied_is_named_and_not_what_is_written(tmp_path: Path) -> None:
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm" / "lm.arpa").symlink_to("gone.arpa")
    (tmp_path / "lm" / "words.txt").symlink_to("gone.txt")
    for source, file in (("lm", "lm/lm.arpa"), ("lm/words.txt", "lm/words.txt"), ("none", "none")):
        refused = pytest.raises(OutputError, match=rf"^Cannot copy {tmp_path / file}: No such file or directory\.$")
        with refused, model_folder(tmp_path / "out") as temporary:
            copy(tmp_path / source, temporary / "copy", links=False)
    copy(tmp_path / "lm", tmp_path / "kept", links=True)
    assert (tmp_path / "kept" / "lm.arpa").readlink() == Path("gone.arpa")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [0, 1, 1_000_003])
def test_sha256_is_that_of_the_bytes(tmp_path: Path, size: int) -> None:
    content = bytes(i % 251 for i in range(size))
    (tmp_path / "f").write_bytes(content)
    assert sha256(tmp_path / "f") == hashlib.sha256(content).hexdigest()
